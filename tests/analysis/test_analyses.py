"""All analyses by name: what each is asked, what it puts on its page, that ranks are computed once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from analysis_models import random_model

from rearec.analysis.analyses import ANALYSES, Subject, analyses_of, fill, new_page
from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError

pytestmark = pytest.mark.usefixtures("quick_figures")

SMALL = {"latency": {"rows": 4, "repeats": 2}, "case": {"cases": 2, "k": 3}}


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


def test_every_analysis_of_one_subject_fills_its_page_and_ranks_the_model_once(
    dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rearec.evaluation

    ranked: list[Any] = []
    rank_rows = rearec.evaluation.rank_rows

    def counting(model: Any, *rest: Any, **options: Any) -> Any:
        ranked.append(model)
        return rank_rows(model, *rest, **options)

    monkeypatch.setattr(rearec.evaluation, "rank_rows", counting)
    done: list[str] = []

    @contextmanager
    def progress(words: str) -> Iterator[None]:
        done.append(words)
        yield

    model = random_model(dataset, "erl")
    control = [random_model(dataset, "base", seed) for seed in range(3)]
    subject = Subject(
        "erl: run", model, dataset, control=control, against={"base: 0": control[0]}, metric="HIT@5", progress=progress
    )
    assert subject.metric == "hit@5" and analyses_of(model) == (list(ANALYSES), {})
    for name in ANALYSES:
        page = new_page(name, subject, tmp_path, ["svg"])
        result = fill(name, subject, page, **SMALL.get(name, {}))
        json.dumps(result)
        text = page.write().read_text()
        assert text.startswith(f"# {ANALYSES[name].title}: erl: run")
        assert [path.name for path in page.files] == [f"{name}.{kind}" for kind in ("csv", "svg", "md")]
        assert all(path.stat().st_size for path in page.files)
        assert ("Hit@5" in text) == ANALYSES[name].metric
    assert ranked.count(model) == 1 and ranked == [model, *control]
    assert done.count("ranking test rows") == 5 and "measuring" in done


def test_the_analyses_of_a_model_without_steps_are_those_that_say_something(dataset: SequenceDataset) -> None:
    chosen, left_out = analyses_of(random_model(dataset, "base"))
    assert chosen == ["subgroups"]
    assert {*chosen, *left_out} == {*ANALYSES} and "no reasoning steps" in left_out["case"]


def test_what_an_analysis_does_not_know_is_refused(dataset: SequenceDataset, tmp_path: Path) -> None:
    model = random_model(dataset)
    subject = Subject("prl", model, dataset)
    page = new_page("steps", subject, tmp_path)
    with pytest.raises(ValueError, match="steps has no option 'rows'; its own are: none"):
        fill("steps", subject, page, rows=3)
    with pytest.raises(ValueError, match="'magic', expected one of steps, ceiling"):
        fill("magic", subject, page)
    base = random_model(dataset, "base")
    with pytest.raises(UserError, match="control: got 2 models, expected 3 base models"):
        Subject("prl", model, dataset, control=[base, base])
    with pytest.raises(UserError, match="control: got a model of method prl"):
        Subject("prl", model, dataset, control=[base, base, model])
    with pytest.raises(UserError, match="expected some of png, svg, pdf"):
        new_page("steps", subject, tmp_path, ["gif"])


def test_naming_the_analyses_takes_no_heavy_library() -> None:
    program = "import sys, rearec.analysis.analyses; print({'torch', 'numpy', 'matplotlib'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "set()\n"
