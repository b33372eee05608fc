"""Runs a flow from the command line; flags, defaults and help come from the flow's own parameter model."""

import atexit
import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TypeVar, get_args

from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_settings import CliApp, SettingsError

from flows._loading import loading
from flows._server import start_server
from sentiment_model.config import ReviewFiles
from sentiment_model.errors import SentimentError
from sentiment_model.redaction import redacted

Run = TypeVar("Run", bound=BaseModel)

_INTERRUPTED = 130
_CHECK = Field(default=False, description="Show how the files are read, and do nothing else.")
_SPELLINGS = {"true": True, "false": False}


def run_cli(model: type[Run], flow: Callable[[Run], object], arguments: Sequence[str] | None = None) -> int:
    """Run `flow` with the parameters that the command line describes.

    Args:
        model: the flow's parameter model.
        flow: called with an instance of it.
        arguments: the command line without the program's name; `sys.argv[1:]` if None.

    Returns:
        the exit status: 0, 1 where the run failed for a reason that the user can mend, 2 for wrong options, and what
        shells have for it where it was interrupted. Reasons are printed to standard error, one line each.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        run = CliApp.run(model, cli_args=list(_without_values(given, set(_switches(model)))), cli_exit_on_error=False)
    except SettingsError as error:
        return _fail(2, f"{str(error).removeprefix('error parsing CLI: ')}; --help lists the options")
    except ValidationError as error:
        return _fail(2, *(_describe(list(detail["loc"]), redacted(detail["msg"])) for detail in error.errors()))
    try:
        flow(run)
    except SentimentError as error:
        return _fail(1, str(error))
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, "interrupted; run it again, and what was done is not done again")
    return 0


def run_flow(model: type[Run], name: str) -> int:
    """Run the flow `name` of the module `flows.<name>`, which is imported once the command line is known to be right.

    Help and a wrong option so need none of the libraries that a flow takes seconds to load.

    Args:
        model: the flow's parameter model.
        name: name of the flow and of its module.

    Returns:
        the exit status, see :func:`run_cli`.
    """
    _open_standard_files()

    def flow(run: Run) -> None:
        atexit.register(gc.freeze)  # else Python searches for garbage at the end, when all memory is given back anyway
        with loading():
            wait_for_server = start_server()
            imported = getattr(import_module(f"flows.{name}"), name)
        wait_for_server()
        imported(run)

    def command(given: BaseModel) -> None:
        run = model.model_validate(given.model_dump(exclude_unset=True, exclude={"check"}))
        if getattr(given, "check", False):
            show_files(run)
        else:
            flow(run)

    return run_cli(command_of(model), command)


def command_of(model: type[BaseModel]) -> type[BaseModel]:
    """Return what the command line of a flow describes: its parameters and, where it reads files, whether to check."""
    if not any(_sections(model.model_construct())):
        return model
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, check=(bool, _CHECK))


def show_files(run: BaseModel) -> None:
    """Print how the files are read that a run names.

    Raises:
        SourceError: there is no such path, or no review file.
    """
    from sentiment_model.markdown import plain
    from sentiment_model.sources.preview import preview

    for name, files in _sections(run):
        if files.path is None:
            sys.stdout.write(f"{name}: no files are named\n")
        else:
            sys.stdout.write(f"{name}: {redacted(files.path)}\n\n{plain(preview(files))}")


def _sections(run: BaseModel) -> Iterator[tuple[str, ReviewFiles]]:
    """Yield the parts of a run that say which files are read, by name."""
    for name in type(run).model_fields:
        if isinstance(section := getattr(run, name), ReviewFiles):
            yield name, section


def _switches(model: type[BaseModel], prefix: str = "--") -> Iterator[str]:
    """Yield the flags of a model that are true or false, at any depth."""
    for name, field in model.model_fields.items():
        flag = prefix + name.replace("_", "-")
        for kind in get_args(field.annotation) or (field.annotation,):
            if kind is bool:
                yield flag
            elif isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _switches(kind, f"{flag}.")


def _without_values(arguments: Iterable[str], switches: Container[str]) -> Iterator[str]:
    """Yield the arguments with `--csv` in place of `--csv true` and `--csv=true`, and `--no-csv` where it is false.

    Raises:
        SettingsError: the value of a switch is neither true nor false.
    """
    left = deque(arguments)
    while left:
        argument = left.popleft()
        name, equals, value = argument.partition("=")
        flag = name.replace("--no-", "--", 1) if name.startswith("--no-") else name
        if flag not in switches:
            yield argument
            continue
        if not equals and left and not left[0].startswith("-"):
            equals, value = "=", left.popleft()
        if equals and value.lower() not in _SPELLINGS:
            raise SettingsError(f"argument {flag}: {value!r} is neither true nor false")
        is_on = (not equals or _SPELLINGS[value.lower()]) == (name == flag)
        yield flag if is_on else flag.replace("--", "--no-", 1)


def _open_standard_files() -> None:
    """Open those that who started the command has closed, or what is opened next would be taken for them."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(opened, True)
    os.close(opened)
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 - to the end


def _describe(location: list[int | str], message: str) -> str:
    option = ".".join(str(part) for part in location).replace("_", "-")
    return f"--{option}: {message}" if option else message.removeprefix("Value error, ")


def _fail(status: int, *messages: str) -> int:
    for message in messages:
        sys.stderr.write(f"error: {message}\n")
    return status
