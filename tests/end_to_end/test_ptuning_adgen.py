"""The original README's training, inference and loading, on the bundled model and real data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from child_process import start_glm
from fake_plugins import run_glm
from patience import PATIENCE_SECONDS
from web_support import BROWSER_ARGUMENTS, chromium

import glm_core
import glm_core.compat as ChatGLM6Bpkg  # as the original's users write it

FIXTURES = os.environ.get("GLM_FIXTURES")
ADGEN = Path(FIXTURES or ".") / "adgen"
PRE_SEQ_LEN = 64

pytestmark = [
    pytest.mark.skipif(
        FIXTURES is None, reason="GLM_FIXTURES does not name the folder with the ADGEN sample"
    ),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output directory of the README's training block, made short and with a higher rate."""
    output_dir = tmp_path_factory.mktemp("output") / "adgen-demo-pt"
    ChatGLM6Bpkg.ptuning.ptuning(
        do_train=True,
        train_file=str(ADGEN / "train.json"),
        validation_file=str(ADGEN / "dev.json"),
        prompt_column="content",
        response_column="summary",
        overwrite_cache=True,
        model_name_or_path="demo",
        output_dir=str(output_dir),
        overwrite_output_dir=True,
        max_source_length=48,
        max_target_length=48,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=1,
        predict_with_generate=True,
        max_steps=300,
        logging_steps=10,
        save_steps=300,
        learning_rate=0.3,
        pre_seq_len=PRE_SEQ_LEN,
        prefix_dropout=0.0,
        no_cuda=True,
    )
    return output_dir


def predicted(output_dir: Path, **more: Any) -> dict[str, float]:
    """Scores of the README's inference block on some of the held-back rows."""
    scores: dict[str, float] = ChatGLM6Bpkg.ptuning.ptuning(
        do_predict=True,
        validation_file=str(ADGEN / "dev.json"),
        test_file=str(ADGEN / "dev.json"),
        overwrite_cache=True,
        prompt_column="content",
        response_column="summary",
        model_name_or_path="demo",
        output_dir=str(output_dir),
        overwrite_output_dir=True,
        max_source_length=48,
        max_target_length=64,
        per_device_eval_batch_size=1,
        predict_with_generate=True,
        pre_seq_len=PRE_SEQ_LEN,
        max_predict_samples=60,
        no_cuda=True,
        **more,
    )
    return scores


def test_the_loss_falls(trained: Path) -> None:
    """The last logged loss is far below the first."""
    state = json.loads((trained / "checkpoint-300" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) >= 10
    assert losses[-1] < 0.6 * losses[0]


def test_the_tuned_model_beats_the_untuned_one(trained: Path, tmp_path: Path) -> None:
    """BLEU-4 and ROUGE-L of held-back rows rise clearly; the file has the original's form."""
    untuned = predicted(tmp_path / "untuned")
    tuned = predicted(trained, ptuning_checkpoint=str(trained / "checkpoint-300"))
    assert tuned["predict_bleu-4"] > 1.5 * untuned["predict_bleu-4"]
    assert tuned["predict_rouge-l"] > 1.5 * untuned["predict_rouge-l"]
    lines = (trained / "generated_predictions.txt").read_text("utf-8").splitlines()
    rows = (ADGEN / "dev.json").read_text("utf-8").splitlines()
    labels = [json.loads(line)["labels"] for line in lines]
    answers = [json.loads(row)["summary"] for row in rows[:60]]
    assert len(labels) == len(answers)
    # Cut to the tokens that an answer may have, as the original cuts them.
    assert all(label and answer.startswith(label) for label, answer in zip(labels, answers, strict=True))
    results = json.loads((trained / "all_results.json").read_text())
    assert results["predict_bleu-4"] == pytest.approx(tuned["predict_bleu-4"], abs=1e-4)


def test_the_loaded_checkpoint_answers_as_in_the_engine(trained: Path) -> None:
    """The README's loading block: the transformers model says what the served adapter says."""
    tokenizer, _, model = ChatGLM6Bpkg.ptuning.load_ptuning_checkpoint(
        model_name_or_path="demo",
        ptuning_checkpoint=str(trained / "checkpoint-300"),
        pre_seq_len=PRE_SEQ_LEN,
    )
    model = model.float().eval()
    question = json.loads((ADGEN / "dev.json").read_text("utf-8").splitlines()[0])["content"]
    expected, _ = model.chat(tokenizer, question, history=[], do_sample=False, max_length=96)
    with glm_core.load("demo", device="cpu", dtype="float32", adapters={"ads": trained}) as served:
        answer, _ = served.chat(question, adapter="ads", do_sample=False, max_length=96)
        base, _ = served.chat(question, do_sample=False, max_length=96)
    assert answer == expected
    assert answer != base


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[str]:
    """The address of ``glm run web --with-api`` in a process of its own."""
    options = ("--with-api", "--port", "0", "--no-inbrowser")
    with start_glm("run", "web", *options, *arguments) as process:
        yield process.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        process.send_signal(signal.SIGINT)
        process.finish()


def test_the_adapter_chats_in_terminal_api_and_page(trained: Path) -> None:
    """One trained adapter gives the same answer through ``glm chat``, the HTTP API and the browser's page."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from web_page import ChatPage  # imports playwright

    path = chromium()
    if path is None:
        pytest.skip("chromium is not installed")
    question = "类型#裙*颜色#红色"
    asked = ("--adapter", f"ads={trained}", "--device", "cpu")
    told = run_glm("chat", question, "--greedy", *asked)
    expected = told.stdout.strip()
    assert expected, told.stderr
    untuned = run_glm("chat", question, "--greedy", "--device", "cpu").stdout.strip()
    assert expected != untuned
    with serving(*asked) as url:
        body = {"model": "demo:ads", "messages": [{"role": "user", "content": question}], "temperature": 0}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=PATIENCE_SECONDS).json()
        assert answer["choices"][0]["message"]["content"] == expected
        with playwright.sync_playwright() as driver:
            driver.selectors.set_test_id_attribute("id")
            browser = driver.chromium.launch(executable_path=path, args=list(BROWSER_ARGUMENTS))
            page = browser.new_page(locale="en-GB")
            page.set_default_timeout(PATIENCE_SECONDS * 1000)
            page.goto(url)
            page.wait_for_function("document.documentElement.dataset.glm === 'ready'")
            chat = ChatPage(page)
            chat.ask(question)
            playwright.expect(chat.finished).to_have_text(expected, timeout=PATIENCE_SECONDS * 1000)
            browser.close()
