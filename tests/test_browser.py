"""The Prefect UI, the MLflow UI and the HTML report in a real browser, with real servers and a worker behind them."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings
from prefect.utilities.urls import url_for
from servers import answers, background, free_port
from test_register import PASS, evaluated, run_register, trained

from sentiment_model.registry.tracking import Tracker
from sentiment_model.settings import Settings
from sentiment_model.store.datasets import Store

sync_api = pytest.importorskip("playwright.sync_api")
Browser, Locator, Page, expect = sync_api.Browser, sync_api.Locator, sync_api.Page, sync_api.expect

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SECOND = 1000.0  # Playwright counts milliseconds


@dataclass(frozen=True)
class Servers:
    """Where the servers are, and a model that is registered there."""

    prefect: str
    mlflow: str
    report: Path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium; `.ci/chromium` installs it as root")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium)
        yield running
        running.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Servers]:
    """A Prefect server with a worker, an MLflow server, deployments of both flows, and a champion."""
    folder = tmp_path_factory.mktemp("servers")
    prefect, mlflow = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_API_URL": f"{prefect}/api",
        "SENTIMENT_STORE_URL": str(folder / "store"),
        "SENTIMENT_SCRATCH_DIR": str(folder / "scratch"),
        "SENTIMENT_MLFLOW_TRACKING_URI": mlflow,
        "SENTIMENT_DEVICE": "cpu",
    }
    python = [sys.executable, "-m"]
    port = prefect.rpartition(":")[2]
    prefect_server = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    mlflow_server = ["mlflow", "server", "--host", "127.0.0.1", "--port", mlflow.rpartition(":")[2], "--workers", "1"]
    mlflow_server += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    mlflow_server += ["--artifacts-destination", str(folder / "artifacts")]
    worker = ["prefect", "worker", "start", "--pool", "sentiment", "--type", "process"]
    with (
        pytest.MonkeyPatch.context() as patch,
        background("prefect", python + prefect_server, environment, folder, lambda: answers(f"{prefect}/api/health")),
        background("mlflow", python + mlflow_server, environment, folder, lambda: answers(f"{mlflow}/health")),
        temporary_settings({PREFECT_API_URL: f"{prefect}/api", PREFECT_UI_URL: prefect}),
    ):
        for name in [name for name in environment if name.startswith("SENTIMENT_")]:
            patch.setenv(name, environment[name])
        # In a process of its own: Playwright's event loop makes Prefect's functions asynchronous here.
        subprocess.run([sys.executable, "-m", "deploy.apply"], env=environment, cwd=ROOT, check=True, timeout=180)
        store = Store(Settings().store_url)
        model = trained(store, 1)
        evaluation = evaluated(store, model, PASS)
        assert run_register(model, evaluation).promoted
        with background("worker", python + worker, environment, folder, lambda: True):
            yield Servers(prefect, mlflow, Path(evaluation.files("report")[0]))


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark")
    opened = context.new_page()
    opened.set_default_timeout(30 * SECOND)
    yield opened
    context.close()


def field(page: Page, label: str) -> Locator:
    """Return the innermost field of the form with this label."""
    return page.locator(".schema-form-property", has=page.get_by_text(label, exact=True)).last


def picture(page: Page, name: str) -> None:
    """Renew a picture of the documents, where that is asked for."""
    if os.environ.get("REFRESH_IMAGES"):
        IMAGES.mkdir(exist_ok=True)
        page.wait_for_timeout(SECOND)  # animations end
        page.screenshot(path=IMAGES / f"{name}.png")


def open_form(page: Page, servers: Servers, deployment: str) -> None:
    page.goto(f"{servers.prefect}/deployments")
    page.get_by_role("link", name=deployment).click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(page.get_by_text("Validate parameters")).to_be_visible()


def test_an_analyst_scores_files_from_the_form(page: Page, servers: Servers) -> None:
    open_form(page, servers, "ad-hoc-scoring")
    field(page, "Path (Optional)").locator("textarea").fill("data/samples/tidy")
    page.wait_for_timeout(SECOND)  # the form takes values over with a delay
    picture(page, "form")
    page.get_by_role("button", name="Submit").click()
    page.locator("a[href*='/runs/flow-run/']").first.click()
    expect(page.get_by_text("Completed", exact=True)).to_be_visible(timeout=240 * SECOND)
    page.get_by_text("Artifacts", exact=True).click()
    page.get_by_role("link", name="scores").first.click()
    expect(page.get_by_text("Rows read")).to_be_visible()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="version 1", exact=True).click()
    expect(opened.value).to_have_url(f"{servers.mlflow}/#/models/sentiment/versions/1")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="MLflow run").click()
    expect(opened.value.get_by_text("reviews_per_second").first).to_be_visible(timeout=60 * SECOND)


def test_the_form_refuses_a_wrong_value_and_names_the_field(page: Page, servers: Servers) -> None:
    open_form(page, servers, "ad-hoc-training")
    field(page, "Epochs (Optional)").locator("input").fill("0")
    page.wait_for_timeout(SECOND)
    page.get_by_role("button", name="Submit").click()
    refusal = "'run.train.epochs'. Failure reason: 0 is less than the minimum of 1"
    expect(page.get_by_text(refusal).first).to_be_visible()


def newest_run(flow_name: str) -> FlowRun:
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])), sort=FlowRunSort.START_TIME_DESC, limit=1
        )
    return found[0]


def test_the_artifact_leads_to_the_model_version(page: Page, servers: Servers) -> None:
    page.goto(f"{servers.prefect}/artifacts")
    page.locator("a[href='/artifacts/key/registration']").click()
    page.locator("a[href^='/artifacts/artifact/']").first.click()
    expect(page.get_by_text("sentiment version 1 is champion")).to_be_visible()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="sentiment version 1").click()
    expect(opened.value).to_have_url(f"{servers.mlflow}/#/models/sentiment/versions/1")
    expect(opened.value.get_by_text("bundle_digest").first).to_be_visible(timeout=60 * SECOND)


def test_only_a_registered_version_has_a_page(servers: Servers) -> None:
    tracker = Tracker(Settings())
    page = f"{servers.mlflow}/#/models/sentiment/versions/1"
    assert (
        tracker.registry.model_url("models:/sentiment@champion", "1")
        == tracker.registry.model_url("models:/sentiment/1", "1")
        == page
    )
    assert (
        tracker.registry.model_url("models:/m-0123456789abcdef", "0123456789ab") is None
    )  # the digest of a logged model


def test_the_mlflow_run_leads_to_the_prefect_run(page: Page, servers: Servers) -> None:
    started_by = newest_run("register only")
    origin = str(url_for("flow-run", started_by.id))
    tracker = Tracker(Settings())
    run = tracker.start_run("sentiment", "f" * 20, name="train lstm imdb", params={}, tags={}, origin=origin)
    page.goto(str(tracker.run_url(run.run_id)))
    with page.expect_popup(timeout=60 * SECOND) as opened:
        page.get_by_role("link", name=origin).click()
    expect(opened.value.get_by_text(started_by.name).first).to_be_visible(timeout=30 * SECOND)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_report_fits_the_screen(size: dict[str, int], scheme: str, browser: Browser, servers: Servers) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(Path(os.environ.get("REFRESH_IMAGES", servers.report)).absolute().as_uri())
    expect(page.get_by_role("heading").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "the page scrolls sideways"
    assert all(url.startswith(("file:", "data:")) for url in requests)
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    background, text = (sum(map(int, _numbers(colour)[:3])) for colour in page.evaluate(colours))
    assert (background > text) == (scheme == "light")
    picture(page, f"report-{'desktop' if size is DESKTOP else 'phone'}-{scheme}")
    context.close()


def _numbers(colour: str) -> list[str]:
    return colour.partition("(")[2].rstrip(")").split(", ")
