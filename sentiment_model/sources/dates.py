"""Times of writing, in the ways that dumps write them."""

import polars as pl

_MICROSECONDS = pl.Datetime("us", "UTC")
_ZONES = {"UTC": "+0000", "GMT": "+0000", "Z": "+0000"}
_ZONES |= {"EDT": "-0400", "EST": "-0500", "CDT": "-0500", "CST": "-0600"}
_ZONES |= {"MDT": "-0600", "MST": "-0700", "PDT": "-0700", "PST": "-0800"}
_ZONE = rf" ({'|'.join(_ZONES)})( \d{{4}})?$"

# With a name or a year in front, so that no day can be taken for a month: 04/09/2015 is read by nobody.
_WITH_ZONE = (
    "%a %b %d %H:%M:%S %z %Y",  # Mon Apr 06 22:19:45 -0700 2009: Twitter, Goodreads
    "%a, %d %b %Y %H:%M:%S %z",  # Mon, 06 Apr 2009 22:19:45 +0000: mail, RSS
)
_WITHOUT_ZONE = (
    "%a %b %d %H:%M:%S %Y",
    "%B %d, %Y %H:%M:%S",
    "%B %d, %Y %I:%M:%S %p",
    "%Y/%m/%d %H:%M:%S",
    "%m %d, %Y %H:%M:%S",  # 09 4, 2015: Amazon's reviewTime
    "%d %B %Y %H:%M:%S",
)


def moment(values: pl.Series) -> pl.Series:
    """Read times as UTC: dates, ISO 8601 (time and offset may be missing), Unix time, or with names of days or months.

    The size of a Unix time tells its unit, from seconds to nanoseconds; that is right for 1973 to 5138. Numbers like
    20150904 and 2015 are a day and a year, and others of their size nothing. What cannot be read becomes null: a
    review without a date is still a review.
    """
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        zone = getattr(values.dtype, "time_zone", None)
        times = values.cast(pl.Datetime("us", zone))
        return times.dt.convert_time_zone("UTC") if zone else times.dt.replace_time_zone("UTC")
    if values.dtype.is_nested():
        return pl.Series([None] * len(values), dtype=_MICROSECONDS)
    text = values.cast(pl.String(), strict=False).str.strip_chars()
    read = _unix_or_iso(text)
    if read.null_count() > text.null_count():
        rest = text.set(read.is_not_null(), None)
        return read.zip_with(read.is_not_null(), _named(rest))
    return read


def _unix_or_iso(values: pl.Series) -> pl.Series:
    text = pl.col("text")
    number = text.cast(pl.Float64(), strict=False)
    magnitude = number.abs()
    microseconds = (
        pl.when(magnitude.is_between(1e3, 1e8, closed="left"))  # a day, a year, or a spreadsheet's count of days
        .then(None)
        .when(magnitude < 1e11)
        .then(number * 1e6)
        .when(magnitude < 1e14)
        .then(number * 1e3)
        .when(magnitude < 1e17)
        .then(number)
        .when(magnitude < 1e19)
        .then(number / 1e3)
    )
    iso = (
        text.str.replace(r"^((?:19|20)\d{2})(?:\.0+)?$", "${1}-01-01")
        .str.replace(r"^((?:19|20)\d{2})(\d{2})(\d{2})(?:\.0+)?$", "${1}-${2}-${3}")
        .str.replace(r"^(\d{4}-\d{2}-\d{2})$", "${1}T00:00:00")
        .str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        .str.replace(r" ?(?:UTC|GMT)$", "Z")
        .str.replace(r" ?([+-]\d{2})$", "${1}:00")
        .str.replace(r" ([+-]\d{2}:?\d{2})$", "${1}")
        .str.replace(r"(T\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?)$", "${1}Z")
        .str.replace(r"(T\d{2}:\d{2})(Z|[+-]\d{2}:?\d{2})$", "${1}:00${2}")
    )
    return (
        pl.DataFrame({"text": values})
        .select(
            pl.coalesce(
                microseconds.cast(pl.Int64()).cast(_MICROSECONDS),
                iso.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False),
            )
        )
        .to_series()
    )


def _named(values: pl.Series) -> pl.Series:
    zone = pl.col("text").str.extract(_ZONE).replace_strict(_ZONES, default=None, return_dtype=pl.String())
    year = pl.col("text").str.extract(_ZONE, 2).fill_null("")
    bare = pl.col("text").str.replace(_ZONE, "")
    zoned = pl.when(zone.is_not_null()).then(pl.concat_str(bare, pl.lit(" "), zone, year)).otherwise("text")
    timed = (
        pl.when(pl.col("text").str.contains(":", literal=True))
        .then("text")
        .otherwise(pl.concat_str("text", pl.lit(" 00:00:00")))
    )
    table = pl.DataFrame({"text": values}).select(zoned=zoned, timed=timed)
    return table.select(
        pl.coalesce(
            *(
                pl.col("zoned").str.to_datetime(form, time_unit="us", time_zone="UTC", strict=False)
                for form in _WITH_ZONE
            ),
            *(
                pl.col("timed").str.to_datetime(form, time_unit="us", strict=False).dt.replace_time_zone("UTC")
                for form in _WITHOUT_ZONE
            ),
        )
    ).to_series()
