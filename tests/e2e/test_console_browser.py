"""The console in a real browser: search, click, watch the feed change; hostile titles stay text."""

# ruff: noqa: F401, F811  (fixtures are imported by name)

import shutil
import warnings

import pytest
from shopfront import HOSTILE, client, feed, folder, pipeline, serving, shared, train, trained

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium():
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        warnings.warn(f"no browser found, the console is not tested: {', '.join(BROWSERS)}", stacklevel=1)
        pytest.skip(f"no browser found; install one of: {', '.join(BROWSERS)}")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, shared):
    """A page that records what it asked for and what went wrong on it."""
    context = chromium.new_context(base_url=str(shared.base_url), reduced_motion="reduce")
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    opened.asked, opened.wrong = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
    opened.on("console", lambda said: opened.wrong.append(said.text) if said.type == "error" else None)
    opened.on("dialog", lambda dialog: (opened.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    yield opened
    assert not opened.wrong
    outside = [url for url in opened.asked if not url.startswith((str(shared.base_url), "data:"))]
    assert not outside, "the console must work offline"
    context.close()


def shown(page):
    return page.locator("#cards .card").evaluate_all("cards => cards.map(card => card.dataset.item)")


def settled(page, n_history):
    page.locator(".trail h2 small", has_text=str(n_history)).wait_for()


def test_a_visitor_searches_clicks_and_the_feed_changes(page, shared):
    page.goto("/")
    everybody = shown(page)
    assert len(everybody) == 12
    assert page.get_by_text("fallback: no history to go by").is_visible()
    page.get_by_label("What did they look at?").press_sequentially("teapot 16")
    page.locator(".hit", has_text="Teapot number 16").click()
    settled(page, 1)
    after_one = shown(page)
    assert after_one != everybody
    assert "h=item-16" in page.url
    page.get_by_role("button", name="Take Teapot", exact=False).first.click()
    settled(page, 2)
    assert after_one[0] not in shown(page)
    assert page.locator(".change.new").count() > 0
    session = {"items": ["item-16", after_one[0]], "k": 12}
    served = shared.post("/v1/sessions/recommendations", json=session).json()
    assert shown(page) == [item["item_id"] for item in served["items"]]
    page.locator(".trail .quiet").first.click()
    settled(page, 1)
    assert shown(page) == after_one
    page.get_by_role("button", name="Start over").click()
    settled(page, 0)
    assert shown(page) == everybody


def test_the_address_holds_the_history_and_back_goes_back(page):
    page.goto("/?h=item-16&h=item-17")
    two = shown(page)
    page.get_by_role("button", name="Take Teapot", exact=False).first.click()
    settled(page, 3)
    assert shown(page) != two
    page.go_back()
    settled(page, 2)
    assert shown(page) == two
    page.reload()
    assert shown(page) == two


def test_enter_takes_the_first_match(page):
    page.goto("/")
    page.get_by_label("What did they look at?").fill("teapot 31")
    page.keyboard.press("Enter")
    settled(page, 1)
    assert page.locator(".trail li", has_text="Teapot number 31").count() == 1


def test_an_event_of_a_known_user_changes_his_feed_and_is_stored(page, shared):
    page.goto("/?mode=user")
    page.get_by_label("Find a user by id").press_sequentially("user-11")
    page.locator(".user", has_text="user-111").click()
    page.get_by_role("heading", name="In the window for user-111").wait_for()
    before = shown(page)
    n_before = feed(shared, "user-111")["n_history"]
    assert before == [item["item_id"] for item in feed(shared, "user-111", k=12)["items"]]
    page.locator("#cards .card button").first.click()
    page.get_by_text("Stored. The feed below already knows.").wait_for()
    after = shown(page)
    assert before[0] not in after
    assert after == [item["item_id"] for item in feed(shared, "user-111", k=12)["items"]]
    assert feed(shared, "user-111")["n_history"] == n_before + 1
    stored = shared.app.state.service.state.frame().filter(user_id="user-111")
    assert stored["item_id"].to_list() == [before[0]]


def test_every_item_says_why_it_is_there(page):
    page.goto("/?h=item-16")
    assert page.locator("#cards .why .source").all_inner_texts()
    stages = page.locator(".funnel th[scope=row]").all_inner_texts()
    assert [stage.split()[-1] for stage in stages][:3] == ["knn", "ease", "merge"]
    assert page.locator(".left-out small", has_text="below the cut").count() > 0


def test_an_item_page_shows_similar_items_by_each_source(page, shared):
    page.goto("/?h=item-16")
    page.locator("#cards .card a").first.click()
    page.get_by_role("heading", name="Similar, says knn").wait_for()
    item_id = page.url.split("id=")[1]
    similar = shared.get(f"/v1/items/{item_id}/similar", params={"k": 12, "source": "ease"}).json()
    on_page = page.locator("section[aria-label='Similar by ease'] .card").evaluate_all(
        "cards => cards.map(card => card.dataset.item)"
    )
    assert on_page == [item["item_id"] for item in similar["items"]]
    page.get_by_role("link", name="Start a feed from it").click()
    settled(page, 1)


def test_hostile_titles_are_inert(page):
    for address in ("/item?id=item-3", "/?h=item-3", "/?h=item-2&h=item-1", "/operations"):
        page.goto(address)
    page.goto("/")
    page.get_by_label("What did they look at?").press_sequentially("script")
    hit = page.locator(".hit").first
    hit.wait_for()
    assert HOSTILE in hit.inner_text()
    hit.click()
    settled(page, 1)
    assert HOSTILE in page.locator(".trail li").first.inner_text()
    assert page.locator("img[src=x]").count() == 0
    assert not any(url.endswith("/v1/popular") for url in page.asked)


def test_operations_count_and_refresh(page, shared):
    for _ in range(3):
        feed(shared, "user-1")
    page.goto("/operations")
    row = page.locator("tr", has_text="/v1/users/{user_id}/recommendations")
    first = int(row.locator("td").first.inner_text())
    feed(shared, "user-1")
    page.wait_for_function(
        "n => [...document.querySelectorAll('tr')].some(row => row.innerText.includes('/v1/users') "
        "&& Number(row.querySelector('td').innerText) > n)",
        arg=first,
    )
    assert page.get_by_text("two sources").is_visible(), "the model card"


def test_the_report_is_shown_without_reaching_the_console(page):
    page.goto("/report")
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name="The report").wait_for()
    frame = page.frames[1]
    assert frame.evaluate("self.origin") == "null"


def test_the_theme_is_switched_and_remembered(page):
    page.goto("/")
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.locator("#theme").click()
    dark = page.evaluate(paper)
    assert dark != light
    page.goto("/api")
    assert page.evaluate(paper) == dark


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_no_page_scrolls_sideways(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    for address in (
        "/",
        "/?h=item-3&h=item-16",
        "/?user=user-5",
        "/item?id=item-3",
        "/operations",
        "/api",
        "/report",
    ):
        page.goto(address)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
