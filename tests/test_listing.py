"""Which files of a folder are read, which are passed over, and what is said of these."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from reading import read, texts, write

from sentiment_model.config import Columns, ReviewFiles
from sentiment_model.errors import NoReviewsError, SourceError
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.listing import Listing, list_files

CSV = b"text,n\ngood,1\nbad,2\n"


def listed(path: Path, **options: object) -> Listing:
    return list_files(ReviewFiles.model_validate({"path": str(path), **options}))


def names(path: Path, **options: object) -> list[str]:
    return [file.name for file in listed(path, **options).files]


def zipped(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return content.getvalue()


_LONG = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=31)).compressobj()
PACKED = {
    "gz": gzip.compress(CSV),
    "gz padded to blocks": gzip.compress(CSV) + b"\0" * 512,
    "gz of two members": gzip.compress(CSV[:8]) + gzip.compress(CSV[8:]),
    "zst": zstandard.compress(CSV),
    "zst with a long window": _LONG.compress(CSV) + _LONG.flush(),
    "bz2": bz2.compress(CSV),
    "bz2 of two streams": bz2.compress(CSV[:8]) + bz2.compress(CSV[8:]),
    "zst that begins with an empty frame": b"\x50\x2a\x4d\x18\4\0\0\0size" + zstandard.compress(CSV),
    "xz": lzma.compress(CSV),
    "xz padded": lzma.compress(CSV) + b"\0" * 4,
    "zip": zipped({"reviews.csv": CSV, "__MACOSX/._reviews.csv": b"junk"}),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip", "a.csv.xz"])
def test_the_first_bytes_say_how_a_file_is_packed(tmp_path: Path, kind: str, name: str) -> None:
    assert texts(write(tmp_path / name, PACKED[kind])) == ["good", "bad"]


@pytest.mark.parametrize("kind", ["gz", "zst", "bz2", "xz", "zip"])
def test_packed_content_that_is_cut_off_is_not_taken_for_the_whole(tmp_path: Path, kind: str) -> None:
    lines = b"text,n\n" + b"".join(b"%d,%d\n" % (n * n, n) for n in range(150_000))
    pack = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}
    if kind == "zip":
        content = zipped({"a.csv": lines})
        with pytest.raises(SourceError, match=r"a.csv.zip is a zip archive that is damaged or cut off"):
            read(write(tmp_path / "a.csv.zip", content[: len(content) // 2]))
        return
    content = pack[kind](lines)
    _, reasons = read(write(tmp_path / f"a.csv.{kind}", content[: len(content) // 2]))
    assert list(reasons.values()) == ["truncated"]


def tar_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo("a.csv")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tar_of(CSV), "a.csv is a tar archive"),
        (gzip.compress(tar_of(CSV)), "a.csv is a tar archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a.csv is a Git LFS pointer"),
        (zipped({"[Content_Types].xml": b"", "xl/workbook.xml": b""}), "a.csv is a workbook"),
        (gzip.compress(bz2.compress(CSV)), "a.csv is packed twice, with bz2 and gz"),
        (zipped({"a.csv": CSV, "b.csv": CSV}), r"is a zip archive of 2 files \(a.csv, b.csv ...\)"),
        (b"\n<!DOCTYPE html><html>", "is a web page"),
        (b"%PDF-1.7\n", "is a PDF"),
    ],
    ids=["tar", "tar.gz", "LFS", "workbook", "twice", "several", "page", "PDF"],  # not by the time that gzip notes
)
def test_what_is_no_file_of_reviews_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(write(tmp_path / "a.csv", content))


def test_the_first_bytes_say_what_the_format_is(tmp_path: Path) -> None:
    pl.read_csv(CSV).write_parquet(tmp_path / "a.csv")
    assert texts(tmp_path / "a.csv") == ["good", "bad"]
    assert texts(write(tmp_path / "reviews", CSV)) == ["good", "bad"]
    assert texts(write(tmp_path / "reviews.txt", CSV.replace(b",", b"\t"))) == ["good", "bad"]
    assert texts(write(tmp_path / "reviews.data", b'[{"text": "good"}]')) == ["good"]
    parquet = (tmp_path / "a.csv").read_bytes()
    assert texts(write(tmp_path / "b.zip", zipped({"x.parquet": parquet}))) == ["good", "bad"]
    assert texts(write(tmp_path / "c.zip", zipped({"x.jl": b'{"text": "good"}'}))) == ["good"]


def test_a_format_that_is_given_holds_for_files_whose_names_say_nothing(tmp_path: Path) -> None:
    for name in ("part-00000", "part-00001.txt", "_SUCCESS", ".part-00000.crc", "notes.md", "other.csv"):
        write(tmp_path / name, b'{"text": "good"}\n')
    assert names(tmp_path, format="jsonl") == ["part-00000", "part-00001.txt"]
    listing = listed(tmp_path, format="jsonl")
    assert listing.passed_over == {"ending in .md": ["notes.md"], "not jsonl": ["other.csv"]}
    assert listed(tmp_path).message() == (
        "3 files passed over: 1 ending in .md (notes.md); 1 without an ending, which are read where --files.format (to "
        "train, --ingest.format) is given (part-00000); 1 ending in .txt, which are read where --files.format (to "
        "train, --ingest.format) is given (part-00001.txt)"
    )


def test_folders_are_searched_through_links_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "a.csv", CSV)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "in")
    assert names(tmp_path / "in") == ["link/a.csv"]


def test_a_folder_that_links_lead_to_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "2024" / "a.csv", CSV)
    (tmp_path / "1-latest").symlink_to(tmp_path / "2024")
    write(tmp_path / ".store" / "b.csv", CSV)
    (tmp_path / "kept").symlink_to(tmp_path / ".store")
    for one in range(9):  # by way of which there are 9! paths to each other
        for other in range(9):
            (tmp_path / f"in-{one}").mkdir(exist_ok=True)
            (tmp_path / f"in-{one}" / f"{other}").symlink_to(tmp_path / f"in-{other}")
        write(tmp_path / f"in-{one}" / "c.csv", CSV)
    assert names(tmp_path) == ["2024/a.csv", *(f"in-{one}/c.csv" for one in range(9)), "kept/b.csv"]


def test_pipes_and_links_to_themselves_are_no_files(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", CSV)
    os.mkfifo(tmp_path / "b.csv")
    (tmp_path / "c.csv").symlink_to(tmp_path / "c.csv")
    (tmp_path / "d.csv").symlink_to(tmp_path / "elsewhere.csv")
    listing = listed(tmp_path)
    assert [file.name for file in listing.files] == ["a.csv"]
    assert listing.passed_over == {"that are no files": ["b.csv"], "that are links to nothing": ["c.csv", "d.csv"]}


def test_a_table_in_name_that_is_json_inside_is_read_as_json(tmp_path: Path) -> None:
    for content in (
        b'[{"text": "good"}]',
        b'\xef\xbb\xbf[\n {"text": "good"}\n]\n',
        b'{"text": "good"}\n',
        b"{'text': 'good'}",
    ):
        assert texts(write(tmp_path / "a.csv", content)) == ["good"]
        assert texts(write(tmp_path / "a.csv.zip", zipped({"a.json": content}))) == ["good"]
    assert texts(write(tmp_path / "b.csv", '{"odd"},text\n1,good\n')) == ["good"]
    assert texts(write(tmp_path / "c.csv", '{"odd"}|1\n'), column_names=("text", "n")) == ['{"odd"}']


def test_a_folder_below_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        write(Path(folder, "a.csv"), CSV)
        Path(folder, "shut").mkdir(mode=0)
        owner = os.geteuid()
        if owner == 0:
            os.seteuid(65534)  # root may list everything
        try:
            listing = listed(Path(folder))
        finally:
            os.seteuid(owner)
            Path(folder, "shut").chmod(0o700)
    assert [file.name for file in listing.files] == ["a.csv"]
    assert listing.passed_over == {"below a folder that cannot be listed": ["shut"]}


def test_a_header_that_begins_like_bz2_is_read(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", "BZh,text\n1,good\n")) == ["good"]


@pytest.mark.parametrize("kind", ["gz", "zst", "bz2", "xz", "zip"])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_of_any_kind_is_said(tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[Any]) -> None:
    content = bytearray(PACKED[kind])
    for place, byte in damage:
        content[int(place * len(content))] = byte
    with contextlib.suppress(SourceError):
        read(write(tmp_path_factory.getbasetemp() / f"damaged.csv.{kind}", bytes(content)))


def test_json_that_describes_the_dataset_is_passed_over_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "dataset_infos.json", json.dumps({"plain": {"features": {"text": "string"}}}))
    write(tmp_path / "labels.json", json.dumps(["negative", "positive"], indent=1))
    with pytest.raises(SourceError, match="text column missing"):
        read(tmp_path / "dataset_infos.json")
    assert names(tmp_path) == ["dataset_infos.json", "labels.json"]  # nothing else: reading them tells
    write(tmp_path / "train.json", json.dumps([{"text": "good"}]))
    write(tmp_path / "lines.json", '{"text": "good"}\n{"text": "bad"}\n')
    listing = listed(tmp_path)
    assert [file.name for file in listing.files] == ["lines.json", "train.json"]
    assert list(listing.passed_over.values()) == [["dataset_infos.json", "labels.json"]]


def test_a_name_that_is_not_utf8_costs_no_other_file(tmp_path: Path) -> None:
    write(tmp_path / "ok.csv", CSV)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/avis_caf\xe9.csv")).write_bytes(CSV)
    for path in (tmp_path, tmp_path / "*.csv"):
        listing = listed(path)
        assert [file.name for file in listing.files] == ["ok.csv"]
        assert listing.passed_over == {"with a name that is not UTF-8": ["avis_caf\\xe9.csv"]}
    (tmp_path / "ok.csv").unlink()
    for path in (tmp_path, tmp_path / "*.csv"):
        with pytest.raises(NoReviewsError, match=r"1 file passed over: 1 with a name that is not UTF-8"):
            listed(path)


def test_what_a_folder_hides_is_said(tmp_path: Path) -> None:
    write(tmp_path / "_reviews.csv", CSV)
    write(tmp_path / ".git" / "b.csv", CSV)
    with pytest.raises(NoReviewsError, match=r"1 file passed over: 1 beginning with . or _ \(_reviews.csv\)"):
        listed(tmp_path)


def test_folders_named_by_a_value_are_columns(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["good"], "Lang": ["en"]})
    for folder in ("rating=5/lang=de", "rating=__HIVE_DEFAULT_PARTITION__/lang=fr", "rating=a%2Fb/lang=x%20y"):
        (tmp_path / folder).mkdir(parents=True)
        frame.write_parquet(tmp_path / folder / "part-0.parquet")
        write(tmp_path / folder / "part-1.csv", CSV)
    config = ReviewFiles(path=str(tmp_path))
    values = []
    for file in list_files(config).files:
        (batch,) = read_batches(file, config, 10)
        assert batch.columns[-1] == ("rating" if file.name.endswith("parquet") else "lang")
        values.append(batch.frame.select("rating", pl.col("^(?i)lang$")).row(0))
    assert values == [("5", "en"), ("5", "de"), (None, "en"), (None, "fr"), ("a/b", "en"), ("a/b", "x y")]
    (batch,) = read_batches(list_files(config).files[0], config, 10, only=["text", "rating"])
    assert batch.frame.to_dicts() == [{"text": "good", "rating": "5"}]
    assert read(tmp_path / "rating=5" / "lang=de" / "part-1.csv", columns=Columns(text="text"))[0]


def test_a_folder_with_a_zero_byte_in_its_column_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a%00b=1" / "a.csv", CSV)
    with pytest.raises(SourceError, match="zero bytes in the name of a column"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array(["1.5", None]).cast(pa.decimal256(50, 2)), ["1.50", None]),
        (pa.array([["1.5"], None], pa.list_(pa.string())).cast(pa.list_(pa.decimal256(50, 1))), [["1.5"], None]),
        (pa.array([{"a": 1}, None]).cast(pa.struct([("a", pa.decimal256(50, 0))])), [{"a": "1"}, None]),
        (pa.array(["{}", None]).cast(pa.json_()), ["{}", None]),
    ],
)
def test_types_that_polars_has_not_are_read_as_near_ones(tmp_path: Path, array: pa.Array, values: list[object]) -> None:
    pq.write_table(pa.table({"text": ["good", "bad"], "value": array}), tmp_path / "a.parquet")
    config = ReviewFiles(path=str(tmp_path / "a.parquet"))
    (batch,) = read_batches(list_files(config).files[0], config, 10)
    assert batch.frame["value"].to_list() == values


def test_a_type_of_which_arrow_crashes_is_named(tmp_path: Path) -> None:
    value = pa.list_(pa.fixed_shape_tensor(pa.int32(), [2]), 2)
    table = pa.table({"text": ["good"], "value": pa.nulls(1, pa.list_view(value))})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match=r"column 'value' of a.parquet has the type list_view"):
        read(tmp_path / "a.parquet")


def test_a_column_whose_name_is_damaged_is_one_line(tmp_path: Path) -> None:
    pl.DataFrame({"text": ["good"], "longname": [1]}).write_parquet(tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    with pytest.raises(SourceError, match=r"a.parquet is no Parquet file or is damaged"):
        read(write(tmp_path / "a.parquet", content.replace(b"longname", b"\x80ongname")))
