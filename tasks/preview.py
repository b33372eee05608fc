"""How a run reads its files, as its first artifact."""

from prefect.artifacts import create_markdown_artifact

from sentiment_model.config import ReviewFiles
from sentiment_model.sources.preview import preview


def show_files(config: ReviewFiles) -> None:
    """Show how files are read, before hours go into what is read wrongly.

    Raises:
        SourceError: there is no such path, or no review file.
    """
    create_markdown_artifact(preview(config), key="files", description="How the files are read, by their first rows")
