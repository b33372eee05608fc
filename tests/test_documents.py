"""What the documents say exists: commands parse, files, targets and settings are there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from flows._cli import command_of, run_cli
from flows.rollback import Rollback
from sentiment_model.config import ScoringRun, TidyRun, TrainingRun
from sentiment_model.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "data" / "README.md", ROOT / "benchmarks" / "README.md"]
)
PARAMETERS: dict[str, type[BaseModel]] = {
    "train": command_of(TrainingRun),
    "demo": command_of(TrainingRun),
    "score": command_of(ScoringRun),
    "rollback": Rollback,
    "tidy": TidyRun,
}


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def commands() -> Iterator[tuple[str, str]]:
    """Yield the document and the rest of every `python -m flows.X ...`, with lines that go on joined."""
    for document in DOCUMENTS:
        text = document.read_text().replace("\\\n", " ")
        for found in re.finditer(r"python -m flows\.(\w[^`\n]*)", text):
            yield name_of(document), found[1].strip()


@pytest.mark.parametrize(("document", "command"), sorted(set(commands())))
def test_commands_parse(document: str, command: str) -> None:
    flow, *arguments = shlex.split(command, comments=True)
    runs: list[BaseModel] = []
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            run_cli(PARAMETERS[flow], runs.append, arguments)
        return
    # What lacks its path in the text, because the text is about something else, is none the worse for it.
    needs_path = flow == "score" and not arguments
    assert run_cli(PARAMETERS[flow], runs.append, arguments) == (2 if needs_path else 0)


def options() -> Iterator[tuple[str, str]]:
    """Yield the document and each `--option` or `--option value` in its text."""
    for document in DOCUMENTS:
        if document.parent.name != "benchmarks":  # which has options of its own
            prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
            for code in re.findall(r"`(--[^`]+)`", prose):
                yield name_of(document), " ".join(code.split())


def test_options_that_are_named_alone_exist() -> None:
    known = set().union(*map(options_of, PARAMETERS.values()))
    for document, code in options():
        assert {word.partition("=")[0] for word in code.split() if word.startswith("--")} <= known, document


@pytest.mark.parametrize(
    ("document", "code"),
    # What extending.md adds is an option only then.
    sorted({(document, code) for document, code in options() if " " in code and "extending" not in document}),
)
def test_options_with_a_value_parse(document: str, code: str) -> None:
    runs: list[BaseModel] = []
    # What lacks its path in the text, because the text is about something else, is none the worse for it.
    paths = {"score": ["--files.path", "x"], "train": ["--ingest.source", "files", "--ingest.path", "x"]}
    for flow, model in PARAMETERS.items():
        for path in ([], paths.get(flow, [])):
            run_cli(model, runs.append, [*path, *shlex.split(code)])
    assert runs


def options_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return every option that the command line takes for a model."""
    found = set()
    for name, field in model.model_fields.items():
        option = prefix + name.replace("_", "-")
        found |= {f"--{option}", f"--no-{option}"}
        for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                found |= options_of(kind, f"{option}.")
    return found | {"--help"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src(?:set)?="([^"]+)"', text):
        path, _, anchor = target.partition("#")
        if path.startswith(("http://", "https://")):
            continue
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), f"{target} does not exist"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_picture_is_shown() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(str(path.relative_to(ROOT)) in text for path in (ROOT / "docs" / "images").iterdir())


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = document.read_text()
    named = set(re.findall(r"^make ([a-z][\w-]*)", text, flags=re.MULTILINE)) | set(
        re.findall(r"`make ([a-z][\w-]*)", text)
    )
    assert named <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_exist(document: Path) -> None:
    named = set(re.findall(r"\bSENTIMENT_[A-Z_]*[A-Z]\b", document.read_text()))
    deployed = re.findall(r"SENTIMENT_[A-Z_]+", (ROOT / "deploy" / "apply.py").read_text())
    assert named <= {*deployed, *(f"SENTIMENT_{name.upper()}" for name in Settings.model_fields)}


def test_every_setting_is_in_the_operations() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    assert all(f"`SENTIMENT_{name.upper()}`" in text for name in Settings.model_fields)


def test_every_error_of_the_operations_table_is_in_the_code() -> None:
    code = "\n".join(path.read_text() for ring in ("sentiment_model", "flows") for path in (ROOT / ring).rglob("*.py"))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # string literals that go on in the next line
    pattern = re.sub(r"\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", "...", code)
    table = (ROOT / "docs" / "operations.md").read_text().partition("## Errors")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    assert len(rows) > 10
    foreign = {"database is locked", "the training loss is nan", "train has only positive reviews"}  # made at run time
    for message in re.findall(r"`([^`]+)`", " ".join(rows)):
        assert message in foreign or all(part.strip() in pattern for part in message.split("...")), message


def test_issue_templates_parse() -> None:
    for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml"):
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys(), path
        assert all(field["attributes"]["label"] for field in form["body"]), path


def test_the_workflow_is_continuous_integration() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["ci"]["steps"] if "run" in step] == [".ci/run"]


@pytest.mark.parametrize("outcome", ["true", "false"])
def test_what_lint_refuses_is_not_committed(tmp_path: Path, outcome: str) -> None:
    def run(*command: str) -> int:
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode

    environment = os.environ | {"PRE_COMMIT_HOME": str(tmp_path / "cache"), "GIT_CONFIG_GLOBAL": os.devnull}
    shutil.copy(ROOT / ".pre-commit-config.yaml", tmp_path)
    (tmp_path / "Makefile").write_text(f"lint:\n\t{outcome}\n")
    (tmp_path / "a.py").touch()
    assert run("git", "init") == 0
    assert run(sys.executable, "-m", "pre_commit", "install") == 0
    assert run("git", "add", ".") == 0
    commit = run("git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--message=a")
    assert (commit == 0) == (outcome == "true")
