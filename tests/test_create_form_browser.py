"""A job made in a real Chromium: from the file that is dropped to the page of the job."""

import json

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from chromium import DESK, PHONE, complaints, keep_screenshot, needs_chromium, set_view, wait
from dashboard_server import add_job, add_model, serving
from scripted_engine import ScriptedEngine
from tunestone.jobs.job import Plan
from tunestone.jobs.tables import Job

pytestmark = needs_chromium

PLANTED = "<img src=x onerror='window.planted = 1'><script>window.planted = 1</script>"
DROP = """
const [zone, name, text] = arguments;
const dropped = new DataTransfer();
dropped.items.add(new File([text], name));
for (const kind of ["dragover", "drop"]) {
  zone.dispatchEvent(new DragEvent(kind, {dataTransfer: dropped, bubbles: true, cancelable: true}));
}
"""


def lines(count, start=0):
    """Sums, and PLANTED in the first."""
    rows = (
        {
            "messages": [{"role": "user", "content": f"{PLANTED if i == 0 else ''} {i} + {i} = ?"}],
            "reference_answer": str(2 * i),
        }
        for i in range(start, start + count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows)


def answer(request):
    """Right for even numbers; the first is the planted text again."""
    asked = request.messages[-1]["content"]
    number = int(asked.rpartition("+")[2].split()[0])
    if number == 0:
        return PLANTED
    return str(2 * number) if number % 2 == 0 else "no idea"


@pytest.fixture(scope="module")
def served(tmp_path_factory, tiny_folder):
    table = {"tiny": {"source": str(tiny_folder)}}
    engine = ScriptedEngine(answer)
    with serving(tmp_path_factory.mktemp("create"), engine=engine, base_models=table) as both:
        yield both


@pytest.fixture
def services(served):
    return served[0]


@pytest.fixture
def address(served):
    return str(served[1].base_url.join("/ui/jobs/new"))


@pytest.fixture
def page(browser, address):
    """The form, empty."""
    set_view(browser, DESK, "light")
    browser.get(address)
    browser.execute_script("sessionStorage.clear()")
    open_form(browser, address)
    complaints(browser)
    return browser


def open_form(browser, address):
    browser.get(address)
    wait(browser, "document.querySelector('#create').dataset.ready === ''")


def find(page, selector):
    return page.find_element(By.CSS_SELECTOR, selector)


def text_of(page, selector):
    return page.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def wait_for_count(page, name, text):
    place = f"document.querySelector('[data-file={name}] .count')"
    wait(page, f"{place}.textContent === '{text}'")


def drop(page, name, text, file="rows.jsonl"):
    page.execute_script(DROP, find(page, f"[data-file={name}] .drop"), file, text)
    wait(page, f"/rows?$/.test(document.querySelector('[data-file={name}] .count').textContent)")


def choose(page, selector, text):
    Select(find(page, selector)).select_by_visible_text(text)


def choose_grader(page, beginning):
    select = Select(find(page, "#template"))
    title = next(o.text for o in select.options if o.text.startswith(beginning))
    select.select_by_visible_text(title)


def type_into(page, selector, text):
    field = find(page, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(Keys.NULL, text or Keys.BACK_SPACE)


def grader_of(page):
    return json.loads(page.execute_script("return document.querySelector('#grader').value"))


def test_a_job_from_the_dropped_file_to_its_page(page, services, tmp_path):
    choose(page, "#model", "tiny")
    drop(page, "training_file", lines(24), "train.jsonl")
    assert text_of(page, "[data-file=training_file] .count") == "24 rows"
    assert len(page.find_elements(By.CSS_SELECTOR, "[data-file=training_file] .first li")) == 5
    held = tmp_path / "held.jsonl"
    held.write_text(lines(6, start=40))
    find(page, "#validation_file-upload").send_keys(str(held))
    wait_for_count(page, "validation_file", "6 rows")

    # Tried before there is a job: two of five are right.
    choose_grader(page, "String check")
    find(page, "#try").click()
    wait(page, "document.querySelector('#signal').textContent.startsWith('Rewards from')")
    assert text_of(page, "#signal") == "Rewards from 0.00 to 1.00."
    rewards = page.execute_script(
        "return [...document.querySelectorAll('#tried .reward')].map((one) => one.textContent)"
    )
    assert rewards == ["0.00", "0.00", "1.00", "0.00", "1.00"]
    assert services.engine.asked[0].max_tokens == 256  # as training would draw
    answers = page.find_elements(By.CSS_SELECTOR, "#tried textarea")
    assert answers[0].get_attribute("value") == PLANTED
    answers[1].send_keys(Keys.CONTROL, "a")
    answers[1].send_keys(Keys.NULL, "2")
    page.find_elements(By.CSS_SELECTOR, "#tried button")[1].click()
    wait(page, "document.querySelectorAll('#tried .reward')[1].textContent === '1.00'")

    # The check, and what it recommends.
    find(page, "#check").click()
    wait(page, "document.querySelector('#check-state').textContent.startsWith('Checked')")
    assert "24 training rows" in text_of(page, "#findings")
    find(page, "[data-advice=batch_size] button").click()
    assert find(page, "#setting-batch_size").get_attribute("value") == "3"
    assert page.execute_script("return window.planted") is None
    assert complaints(page) == []
    keep_screenshot(page, "create-filled", DESK[0], tmp_path)

    # Refused at its field, and nothing is lost.
    type_into(page, "#setting-epochs", "99")
    find(page, "#submit").click()
    wait(page, "document.querySelector('#setting-epochs').ariaInvalid === 'true'")
    assert page.switch_to.active_element.get_attribute("id") == "setting-epochs"
    fault = find(page, "#setting-epochs ~ .fault").text
    assert "less than or equal to 50" in fault
    assert all("400 (Bad Request)" in line for line in complaints(page))

    type_into(page, "#setting-epochs", "2")
    type_into(page, "#suffix", "sums")
    find(page, "#submit").click()
    wait(page, "location.pathname.startsWith('/ui/runs/')")
    job_id = page.current_url.rpartition("/")[2].removeprefix("ftjob-")
    with services.store.session() as session:
        job = session.get_one(Job, job_id)
    plan = Plan.from_json(job.plan)
    assert (job.model, plan.suffix, plan.reward["type"]) == ("tiny", "sums", "string_check")
    assert (plan.settings["epochs"], plan.settings["batch_size"]) == (2, 3)
    assert plan.validation
    assert complaints(page) == []
    assert page.execute_script("return sessionStorage.length") == 0


def test_answers_that_all_get_the_same_are_said_to_give_no_signal(page):
    choose(page, "#model", "tiny")
    drop(page, "training_file", lines(3, start=101))
    choose_grader(page, "String check")
    choose(page, "#grader-operation", "ne")
    assert grader_of(page)["operation"] == "ne"
    find(page, "#try").click()
    for number in range(3):  # 102 is answered rightly, which `ne` gives nothing for
        wait(page, f"document.querySelectorAll('#tried .reward')[{number}].textContent !== '…'")
    wait(page, "!document.querySelector('#signal').hidden")
    assert text_of(page, "#signal") == "Rewards from 0.00 to 1.00."
    page.find_elements(By.CSS_SELECTOR, "#tried textarea")[1].send_keys(" or so")
    page.find_elements(By.CSS_SELECTOR, "#tried button")[1].click()
    wait(page, "document.querySelector('#signal').textContent.startsWith('No signal in these 3:')")
    type_into(page, "#grader-reference", "{{ item.nothing }}")
    find(page, "#try").click()
    wait(page, "document.querySelector('#signal').textContent.startsWith('Not one answer')")
    assert "invalid variable error" in text_of(page, "#tried .fault")
    assert complaints(page) == []


def test_a_faulty_file_is_told_with_its_line(page):
    drop(page, "training_file", lines(2) + "{\n" + PLANTED, "<b>mine.jsonl")
    fault = text_of(page, "[data-file=training_file] .fault")
    assert fault.startswith("<b>mine.jsonl:3: invalid JSON")
    assert "(2 rows cannot be used)" in fault
    assert page.execute_script("return window.planted") is None
    # A file that the API does not take at all.
    page.execute_script(DROP, find(page, "[data-file=validation_file] .drop"), "empty.jsonl", "")
    wait(page, "!document.querySelector('[data-file=validation_file] .fault').hidden")
    assert text_of(page, "[data-file=validation_file] .fault") == "The uploaded file is empty."
    assert all("400 (Bad Request)" in line for line in complaints(page))


def test_fields_and_json_of_a_grader_keep_in_step(page):
    choose_grader(page, "Several graders")
    type_into(page, "#grader-calculate_output", "close")
    assert grader_of(page)["calculate_output"] == "close"
    choose_grader(page, "Number")
    assert grader_of(page)["type"] == "number"
    find(page, "#grader-more summary").click()
    type_into(page, "#grader-tolerance", "0.5")
    assert grader_of(page)["tolerance"] == 0.5
    type_into(page, "#grader-tolerance", "")
    assert "tolerance" not in grader_of(page)
    choose_grader(page, "Several graders")  # what was made of it is still there
    assert grader_of(page)["calculate_output"] == "close"
    find(page, "#advanced summary").click()
    set_json(page, '{"type": "text_similarity", "evaluation_metric": "bleu"}')
    assert find(page, "#grader-evaluation_metric").get_attribute("value") == "bleu"
    assert Select(find(page, "#template")).first_selected_option.text.startswith("Text similarity")
    set_json(page, '{"type": "length", "soft_limit": 9}')  # no template has this type
    assert page.find_elements(By.CSS_SELECTOR, "#grader-fields .field") == []
    set_json(page, '{"type": ')
    assert text_of(page, "#grader-fault").startswith("This is no grader: ")
    find(page, "#submit").click()
    wait(page, "document.activeElement.id === 'template'")
    assert text_of(page, "#grader-fault") == "The grader's JSON cannot be read yet."
    assert complaints(page) == []


def set_json(page, text):
    page.execute_script(
        "const area = document.querySelector('#grader'); area.value = arguments[0];"
        "area.dispatchEvent(new Event('input', {bubbles: true}))",
        text,
    )


def test_the_code_field_indents_numbers_its_lines_and_can_be_left(page):
    choose_grader(page, "Python")
    source = find(page, "#grader-source")
    source.send_keys(Keys.CONTROL, "a")
    source.send_keys(Keys.NULL, "def grade(sample, item):", Keys.ENTER, "if True:", Keys.ENTER)
    source.send_keys("return 1.0", Keys.ENTER, Keys.SHIFT, Keys.TAB, Keys.NULL, "return 0.0")
    wanted = "def grade(sample, item):\n    if True:\n        return 1.0\n    return 0.0"
    assert source.get_attribute("value") == wanted
    assert grader_of(page)["source"] == wanted
    assert text_of(page, "#grader-fields .code-field pre") == "1\n2\n3\n4"
    source.send_keys(Keys.TAB)
    assert page.switch_to.active_element == source
    source.send_keys(Keys.ESCAPE)
    source.send_keys(Keys.TAB)
    assert page.switch_to.active_element != source
    assert complaints(page) == []


def test_what_was_typed_survives_a_reload(page, address, services):
    tuned = add_model(services, add_job(services, state="succeeded"))
    open_form(page, address)
    drop(page, "training_file", lines(4), "kept.jsonl")
    choose(page, "#model", tuned)
    choose_grader(page, "JSON fields")
    choose(page, "#grader-style", "strict")
    type_into(page, "#setting-learning_rate", "2e-4")
    type_into(page, "#suffix", "again" + Keys.ENTER)  # which must not create anything
    open_form(page, address)
    wait_for_count(page, "training_file", "4 rows")
    assert grader_of(page)["style"] == "strict"
    assert find(page, "#grader-style").get_attribute("value") == "strict"
    values = {name: find(page, f"#{name}").get_attribute("value") for name in ("model", "suffix")}
    assert values == {"model": tuned, "suffix": "again"}
    assert find(page, "#setting-learning_rate").get_attribute("value") == "2e-4"
    find(page, "#forget").click()
    wait(page, "document.querySelector('#suffix')?.value === ''")
    assert complaints(page) == []


def test_what_is_missing_is_said_at_its_field(page):
    find(page, "#submit").click()
    wait(page, "!document.querySelector('[data-file=training_file] .fault').hidden")
    fault = text_of(page, "[data-file=training_file] .fault")
    assert fault == "Missing required parameter: 'training_file'."
    assert page.switch_to.active_element.get_attribute("id") == "training_file"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_form_fits(page, address, tmp_path, size, scheme):
    set_view(page, size, scheme)
    open_form(page, address)
    choose_grader(page, "Python")
    for details in page.find_elements(By.CSS_SELECTOR, "form > section > details > summary"):
        if details.is_displayed():
            details.click()
    page.execute_script("scrollTo(0, 0)")
    keep_screenshot(page, f"create-{size[0]}-{scheme}", size[0], tmp_path)
    assert complaints(page) == []
