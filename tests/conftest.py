"""What all tests share: shapes are checked, one thread is used, tiny models stand ready."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import pytest

# Ours and every process that a test starts: several files are tested at once, and two threads that
# wait for each other on a busy machine take minutes for a tiny model.
os.environ["OMP_NUM_THREADS"] = "1"

# Before anything imports these modules: from here on every shape they name is checked.
jaxtyping.install_import_hook(
    [f"tunestone.core.{name}" for name in ("advantage", "loss", "tree", "logprobs")],
    "beartype.beartype",
)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from chromium import start_chromium  # noqa: E402
from tiny import write_tiny_model  # noqa: E402
from tunestone.core.model import BaseModel, load_base  # noqa: E402

if TYPE_CHECKING:
    from selenium import webdriver

torch.set_num_threads(1)
settings.register_profile("tunestone", deadline=None)  # a busy machine is not a failure
settings.load_profile("tunestone")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder with a tiny Llama and its tokenizer. Not to be written to."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_base(tiny_folder: Path) -> BaseModel:
    """A fresh copy for every test: a policy changes the network it is given."""
    return load_base(str(tiny_folder))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[webdriver.Chrome]":
    """A real Chromium, one for all tests that drive one."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()
