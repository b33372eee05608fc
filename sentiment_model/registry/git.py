"""The commit of this code."""

import subprocess
from pathlib import Path


def git_commit() -> str | None:
    """Return the commit of this code, `-dirty` added where files differ from it; None outside a checkout."""
    here = Path(__file__)
    is_ours = ["ls-files", "--error-unmatch", here.name]
    name = ["describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        for command in (is_ours, name):
            answer = subprocess.run(  # noqa: S603 - fixed arguments
                ["git", *command],  # noqa: S607 - whichever git the user has
                cwd=here.parent,
                capture_output=True,
                text=True,
                check=True,
            )
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()
