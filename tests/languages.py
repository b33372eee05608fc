"""Short reviews of films in languages whose words have no spaces between them, or endings glued to them."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import polars as pl


class Language(NamedTuple):
    """What reviews are put together from: an opening, perhaps something in between, and a verdict."""

    openings: Sequence[str]
    between: Sequence[str]
    positive: Sequence[str]
    negative: Sequence[str]


LANGUAGES = {
    "Korean": Language(
        [
            "이 영화는", "배우들 연기가", "이야기가", "음악이", "결말이", "감독의 연출이", "주말에 가족과 봤는데",
            "기대하고 봤는데", "친구 추천으로 봤는데", "두 번째로 봤는데",
        ],
        [" ", " 솔직히 ", " 생각보다 ", " 끝까지 ", " 역시 "],
        ["재미있었다", "재밌네요ㅋㅋㅋ", "감동적이었어요ㅠㅠ", "최고예요!", "좋았습니다", "훌륭했다"],
        ["지루했다", "재미없네요", "실망스러웠어요", "최악이에요!", "별로였습니다", "시간만 아까웠다ㅡㅡ"],
    ),
    "Japanese": Language(
        ["この映画は", "俳優の演技は", "ストーリーは", "音楽は", "ラストは", "監督の演出は"],
        ["", "本当に", "正直", "思ったより"],
        ["面白かったです", "最高でした！", "感動しました", "素晴らしかった"],
        ["つまらなかったです", "最悪でした！", "がっかりしました", "退屈だった"],
    ),
    "Chinese": Language(
        ["这部电影", "演员的表演", "故事情节", "配乐", "结局", "导演的手法"],
        ["", "真的", "实在", "比想象中"],
        ["非常好看", "太精彩了！", "让人感动", "值得再看一遍"],
        ["非常难看", "太无聊了！", "让人失望", "浪费时间"],
    ),
    "Thai": Language(
        ["หนังเรื่องนี้", "นักแสดงเล่น", "บทหนัง", "เพลงประกอบ", "ตอนจบ", "ภาพในเรื่อง"],
        ["", "จริงๆแล้ว", "โดยรวม", "สำหรับเรา"],
        ["สนุกมาก", "ดีมากเลย", "ประทับใจสุดๆ", "น่าดูอีกครั้ง"],
        ["น่าเบื่อมาก", "แย่มากเลย", "ผิดหวังสุดๆ", "เสียเวลาดู"],
    ),
}  # fmt: skip


def reviews_in(language: str) -> pl.DataFrame:
    """Return reviews with `text`, `label` and `opening`, the number of the opening."""
    parts = LANGUAGES[language]
    verdicts = [(text, 1) for text in parts.positive] + [(text, 0) for text in parts.negative]
    return pl.DataFrame(
        [
            (opening + between + verdict, label, number)
            for (number, opening), between, (verdict, label) in product(
                enumerate(parts.openings), parts.between, verdicts
            )
        ],
        schema={"text": pl.String, "label": pl.Int8, "opening": pl.Int64},
        orient="row",
    )


def write_korean(path: Path) -> None:
    """Write the Korean reviews as a shop might have them: as Parquet, with ratings from 1 to 10, of twenty films."""
    reviews = reviews_in("Korean").sample(fraction=1, shuffle=True, seed=0)
    reviews.select(review="text", rating=pl.col("label") * 9 + 1, movie_id=pl.int_range(pl.len()) % 20).write_parquet(
        path
    )
