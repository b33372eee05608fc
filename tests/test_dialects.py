"""Delimited text as people write it: what is found out, what has to be said, and what is never lost without a word."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import read, texts, write

from sentiment_model.config import Columns, ReviewFiles
from sentiment_model.errors import SourceError
from sentiment_model.sources.delimited import _Records
from sentiment_model.sources.dialects import Dialect
from sentiment_model.sources.files import read_batches
from sentiment_model.sources.listing import list_files


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_the_delimiter_is_the_one_that_finds_the_text(tmp_path: Path, name: str, delimiter: str) -> None:
    rows = [["id", "text", "stars"], ["1", "Great, but; long\t| and loud", "4,5"], ["2", "Awful", "1,0"]]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows(rows)
    assert texts(write(tmp_path / name, buffer.getvalue())) == [rows[1][1], "Awful"]


def test_a_header_that_has_the_text_is_not_split_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,a;text;b\nGood; really; good,1\n")
    assert texts(path) == ["Good; really; good"]


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_line_for_spreadsheets_names_the_delimiter(tmp_path: Path, first: str) -> None:
    assert texts(write(tmp_path / "a.csv", f"{first}text;n\nGood, really;1\n")) == ["Good, really"]


def test_a_file_of_one_column_may_hold_any_delimiter(tmp_path: Path) -> None:
    lines = ["Great film, loved it", "Bad; and long, too", "Fine"]
    assert texts(write(tmp_path / "a.csv", "text\n" + "\n".join(lines))) == lines


def test_quotes_mean_nothing_where_every_line_is_a_record(tmp_path: Path) -> None:
    lines = ['1\t"Best thing ever\t5', '2\tNever again"\t1', '3\t"Great" is what they say\t1', '4\tA 7" screen\t5']
    expected = ['"Best thing ever', 'Never again"', '"Great" is what they say', 'A 7" screen']
    assert texts(write(tmp_path / "a.tsv", "\n".join(["id\ttext\tstars", *lines]))) == expected


def test_quotes_mean_something_where_fields_stand_in_them(tmp_path: Path) -> None:
    content = 'id\ttext\n1\t"Two\nlines"\n2\t"A ""great"" film"\n3\t"Tab\there"\n4\t"Never closed\n5\tfine\n'
    found, reasons = read(write(tmp_path / "a.tsv", content))
    assert list(found.values()) == ["Two\nlines", 'A "great" film', "Tab\there", "fine"]
    assert list(reasons.values()) == ["broken_csv"]


@pytest.mark.parametrize(("name", "mark"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";")])
def test_a_quote_that_joins_lines_which_are_records_loses_none(tmp_path: Path, name: str, mark: str) -> None:
    """Beyond what was looked at to find out how the file is written."""
    good = [f'{n}{mark}"Fine ""film"""{mark}3' for n in range(3000)]
    bad = [f'3000{mark}"Best thing I ever bought{mark}5', f'3001{mark}Never again awful"{mark}1']
    content = "\n".join([f"id{mark}text{mark}stars", *good, *bad, *good])
    found, reasons = read(write(tmp_path / name, content))
    assert reasons == {3001: "broken_csv"}
    assert found[3002] == 'Never again awful"'
    assert len(found) == 6001


def test_lines_that_are_counted_are_records(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,text\n1,"Best thing ever\n2,Never again"\n3,Average\n')
    assert read(path) == ({2: 'Never again"', 3: "Average"}, {1: "broken_csv"})


@pytest.mark.parametrize("content", ["id^text^stars\n1^good^5\n", "id;body;stars\n1;good;5\n"])
def test_a_file_of_one_column_names_the_option_for_several(tmp_path: Path, content: str) -> None:
    with pytest.raises(SourceError, match=r"'id.*stars'; name the column with the text, or .* in --files.delimiter "):
        read(write(tmp_path / "a.csv", content))


def test_a_review_of_two_lines_is_no_two_records(tmp_path: Path) -> None:
    content = 'text,label\n"Nice, but\nbad",neg\n"Not, good\n1,2",1\n'
    assert texts(write(tmp_path / "a.csv", content)) == ["Nice, but\nbad", "Not, good\n1,2"]


@pytest.mark.parametrize(
    "content",
    [
        'n,text\n1,"Nice film\n10,000 people saw it"\n',
        'text,n\n"Note: 4,5\nSehr gut",1\n',
        'a,text\nx,"One, two\nthree, four\n5,6"\ny,z\n',
    ],
)
def test_commas_and_numbers_in_a_review_of_two_lines_make_no_records(tmp_path: Path, content: str) -> None:
    rows = list(csv.DictReader(io.StringIO(content)))
    assert texts(write(tmp_path / "a.csv", content)) == [row["text"] for row in rows]


def test_lines_that_are_all_quotes_are_not_read_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each opens a quote that the next one closes and opens: all that follow are a part of every record."""
    decoded = []
    original = Dialect.records

    def counted(self: Dialect, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        return original(self, (decoded.append(1) or line for line in lines), strict=strict)  # type: ignore[func-returns-value]

    monkeypatch.setattr(Dialect, "records", counted)
    many = 20_000
    lines = [b'x","a'] * many + [b"fine,1"]
    records = list(_Records(iter([b"text,n", *lines]), Dialect(","), 10_000))
    assert len(records) >= many
    assert records[-1] == (["fine", "1"], 6)
    assert len(decoded) < 20 * many


def test_backslashes_escape_quotes_where_the_file_reads_better_so(tmp_path: Path) -> None:
    content = (
        'id,text\n1,"She said \\"great\\", and left"\n2,"A \\"must see\\""\n3,"In C:\\films\\new, loved"\n4,a\\b\n'
    )
    expected = ['She said "great", and left', 'A "must see"', "In C:\\films\\new, loved", "a\\b"]
    assert texts(write(tmp_path / "a.csv", content)) == expected
    path = write(tmp_path / "c.csv", 'text\n"One\ntwo\nthree\\"\n')  # more rows, but of broken ones
    assert texts(path) == ["One\ntwo\nthree\\"]
    doubled = 'id,text\n1,"ends in a backslash\\"\n2,"She said ""great"""\n'
    assert texts(write(tmp_path / "b.csv", doubled)) == ["ends in a backslash\\", 'She said "great"']


def test_columns_are_named_where_there_is_no_header(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '"0";"1";"so sad; and awful"\n"4";"2";"wonderful, really"\n')
    assert texts(path, column_names=("target", "id", "text")) == ["so sad; and awful", "wonderful, really"]
    with pytest.raises(SourceError, match=r"a.csv.* --files.column-names"):
        read(path)
    found, reasons = read(write(tmp_path / "b.csv", "1,good\n2\n3,bad\n"), column_names=("id", "text"))
    assert (found, reasons) == ({1: "good", 3: "bad"}, {2: "ragged_line"})


def test_what_is_said_goes_before_what_is_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text;n\n'It''s; good';1\n")
    assert texts(path, delimiter=";", quote="'") == ["It's; good"]
    path = write(tmp_path / "b.csv", 'text,n\n"Great,1\nbad",2\n')
    assert texts(path, quote="none") == ['"Great', 'bad"']
    path = write(tmp_path / "c.csv", 'text,n\n"a ^"b^" c",1\n')
    assert texts(path, escape="^") == ['a "b" c']
    assert ReviewFiles(delimiter="tab").delimiter == ReviewFiles(delimiter="\\t").delimiter == "\t"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"delimiter": ",,"}, "one character"),
        ({"quote": "\n"}, "one character"),
        ({"encoding": "latin-99"}, "encoding"),
    ],
)
def test_options_that_mean_nothing_are_refused(option: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReviewFiles.model_validate(option)


@pytest.mark.parametrize(
    "option", [{"delimiter": '"'}, {"delimiter": ";", "quote": ";"}, {"delimiter": "\\", "escape": "\\"}]
)
def test_a_delimiter_that_is_a_quote_is_refused(tmp_path: Path, option: dict[str, str]) -> None:
    with pytest.raises(SourceError, match=r"a.csv: the delimiter .* is the quote or the escape too"):
        read(write(tmp_path / "a.csv", "text,n\ngood,1\n"), **option)


def test_an_escape_that_is_the_quote_means_that_quotes_are_doubled(tmp_path: Path) -> None:
    assert texts(write(tmp_path / "a.csv", 'text,n\n"a ""b""",1\n'), escape='"') == ['a "b"']
    assert texts(write(tmp_path / "b.csv", "text,n\n'a;b',1\n"), quote="'", delimiter=",") == ["a;b"]


@pytest.mark.parametrize("encoding", ["idna", "punycode", "unicode_escape", "utf-16", "utf-32"])
def test_an_encoding_that_is_wrong_is_one_line(tmp_path: Path, encoding: str) -> None:
    content = b"text,n\ngood,1\nb\xe9d\x81,2\n\xff,3\nx\\ud83d,4\n\\x,5\n"
    with pytest.raises(SourceError, match=r"a.csv"):
        read(write(tmp_path / "a.csv", content), encoding=encoding)


def test_what_stands_before_bytes_of_no_character_is_kept(tmp_path: Path) -> None:
    lines = "text,n\ngood,1\nbad,2\n".encode("utf-32-le")
    found, reasons = read(write(tmp_path / "a.csv", lines + b"\xff" * 4 + lines), encoding="utf-32-le")
    assert found == {1: "good", 2: "bad"}
    assert reasons == {3: "undecodable"}


@pytest.mark.parametrize("encoding", ["cp1252", "cp1251", "euc-kr", "gb18030", "shift_jis", "utf-16", "utf-16-be"])
def test_an_encoding_that_is_named_is_read(tmp_path: Path, encoding: str) -> None:
    text = {"cp1252": "café “lovely”", "cp1251": "плохо", "euc-kr": "최고", "gb18030": "很好", "shift_jis": "最高"}
    content = f"id,text\n1,{text.get(encoding, 'né')}\n".encode(encoding)
    assert texts(write(tmp_path / "a.csv", content), encoding=encoding) == [text.get(encoding, "né")]


def test_what_is_not_utf8_names_the_option(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n1,café\n2,bad\n3,good\n".encode("cp1252"))
    config = ReviewFiles(path=str(path))
    (batch,) = read_batches(list_files(config).files[0], config, 100)
    assert batch.rejects["detail"].to_list() == [
        "not UTF-8; --files.encoding (to train, --ingest.encoding) names another encoding"
    ]
    # Bytes that the encoding does not have are quarantined too.
    found, reasons = read(write(tmp_path / "b.csv", b"id,text\n1,caf\xe9\n2,\x81\n"), encoding="cp1252")
    assert (found, reasons) == ({1: "café"}, {2: "undecodable"})


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_lines_may_end_with_a_carriage_return_alone(tmp_path: Path, name: str) -> None:
    content = "text,n\rgood,1\rbad,2\r" if name == "a.csv" else '{"text": "good"}\r{"text": "bad"}\r'
    assert texts(write(tmp_path / name, content)) == ["good", "bad"]


def test_records_in_quotes_as_a_whole_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", '"id,text,stars"\n"1,""A film, wonderful"",5"\n"2,Awful,1"\n')
    assert texts(path) == ["A film, wonderful", "Awful"]


def test_headers_of_files_that_were_joined_are_quarantined(tmp_path: Path) -> None:
    content = "\ufefftext,stars\nGood,5\n\ufefftext,stars\nBad,1\ntext,stars\n"
    found, reasons = read(write(tmp_path / "a.csv", content))
    assert found == {1: "Good", 3: "Bad"}
    assert reasons == {2: "repeated_header", 4: "repeated_header"}


def test_a_fault_of_most_rows_is_one_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,text\n" + "1,a,b\n" * 3 + "2,c\n" * 2)
    with pytest.raises(SourceError, match=r"first rows of a.csv .* 3 of 5: ragged_line, 3 fields .*'1,a,b'"):
        read(path)
    _, reasons = read(write(tmp_path / "b.csv", "id,text\n" + "1,a,b\n" * 3 + "2,c\n" * 4))
    assert list(reasons.values()) == ["ragged_line"] * 3


def test_a_long_review_that_the_sample_cuts_is_no_fault(tmp_path: Path) -> None:
    long = "line, of a review\n" * 5000
    assert texts(write(tmp_path / "a.csv", f'text,n\n"{long}",1\nshort,2\n')) == [long, "short"]


def test_written_escapes_are_taken_out_where_they_are_throughout(tmp_path: Path) -> None:
    content = 'id,text\n1,Good.\\nReally \\"good\\".\n2,It\\\'s\\tbad\n3,fine\n'
    path = write(tmp_path / "a.csv", content)
    assert texts(path, escape="none") == ['Good.\nReally "good".', "It's\tbad", "fine"]
    rare = "".join(f"{n},fine\n" for n in range(998))
    for other in (
        "1,one\\nline\n2,Say \\n\n" + rare,
        "1,See C:\\new\n2,fine\n",
        '1,Good.\\nBad\n2,Not\\nhere\n3,"two\nlines"\n',
        "1,a\\nb\n2,50\\% off\n",
    ):
        found = texts(write(tmp_path / "b.csv", f"id,text\n{other}"))
        assert "\\" in found[0]


def test_escapes_are_found_alike_in_batches_and_parts_of_any_size(tmp_path: Path) -> None:
    late = [f"Good.\\n{n}" for n in range(1500)] + ["50\\% off"] * 500
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": late}).write_parquet(path, row_group_size=500)
    config = ReviewFiles(path=str(path))
    (file,) = list_files(config).files
    expected = [text.replace("\\n", "\n").replace("\\%", "%") for text in late]
    for batch_rows in (1, 7, 5000):
        read_ = [batch.frame["text"] for batch in read_batches(file, config, batch_rows)]
        assert pl.concat(read_).to_list() == expected
    for group in range(4):
        (batch,) = read_batches(file, config, 5000, row_groups=(group, group + 1), first_row=500 * group + 1)
        assert batch.frame["text"].to_list() == expected[500 * group : 500 * (group + 1)]


@given(
    st.lists(st.tuples(st.text(max_size=20), st.integers(0, 9)), min_size=1, max_size=30),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_whatever_is_written_with_quotes_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]], delimiter: str, quoting: int
) -> None:
    rows = [(text.encode(errors="replace").decode().replace("\r", ""), number) for text, number in rows]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows([("body", "n"), *rows])  # type: ignore[arg-type]
    path = write(tmp_path_factory.mktemp("a") / "a.csv", buffer.getvalue())
    found, reasons = read(
        path, columns=Columns(text="body"), escape="none", missing_values=("no text of twenty characters",)
    )
    assert len(found) + len(reasons) == len(rows)
    for row, (text, _) in enumerate(rows, 1):
        is_empty = pl.Series([text]).str.strip_chars()[0] == ""
        assert reasons[row] == "empty_text" if is_empty else found[row] == text


def test_a_header_in_other_letters_is_repeated_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,stars\ngood,5\n"TEXT", Stars\nbad,1\n')
    assert read(path) == ({1: "good", 3: "bad"}, {2: "repeated_header"})
    assert texts(write(tmp_path / "b.csv", "text\ngood\nText\n")) == ["good", "Text"]  # which a review may be
