"""The command line as a process: exit codes, one-line errors, json, overwriting, what the start imports."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

COMMANDS = ("demo", "download", "prepare", "embed", "train", "evaluate", "analyze", "reproduce", "recommend", "info")
SMALL = ("--dim", "16", "--ffn", "16", "--layers", "1", "--max-len", "8", "--epochs", "1", "--batch-size", "256")


def test_help_names_the_commands_and_no_heavy_library_is_imported(run_rearec: Any) -> None:
    result = run_rearec("--help")
    assert result.returncode == 0
    assert all(re.search(rf"\b{name}\b", result.stdout) for name in COMMANDS)
    script = (
        "import sys\n"
        "try:\n"
        "    from rearec.cli import main\n"
        "    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'lightning', 'matplotlib', 'polars', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "    print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    for arguments in (
        *(["--help"], ["train"], ["train", "--help"], ["train", "x"], ["prepare", "json"]),
        *(["analyze", "nowhere", "steps", "--out", "x"], ["analyze", "--help"]),
        *(["reproduce", "--help"], ["reproduce", "table2", "x", "--out", "y", "--methods", "cot"]),
        *(["evaluate", "nowhere"], ["recommend", "nowhere", "x"], ["embed", "x", "--pca", "-1"]),
    ):
        command = [sys.executable, "-c", script, *arguments]
        process = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert "HEAVY []" in process.stderr, (arguments, process.stderr)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_common_options(name: str, run_rearec: Any) -> None:
    result = run_rearec(name, "--help", COLUMNS="200")
    assert result.returncode == 0
    for option in ("--json", "--seed", "--device", "--threads", "--debug"):
        assert option in result.stdout, option
    assert ("--force" in result.stdout) == (
        name in ("demo", "prepare", "embed", "train", "analyze", "reproduce", "recommend")
    )


def test_version_is_the_distributions(run_rearec: Any) -> None:
    assert run_rearec("--version").stdout == f"rearec {version('rearec')}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["train"],
        ["train", "data", "--out", "run", "--method", "magic"],
        ["train", "data", "--out", "run", "--steps", "-1"],
        ["info", "--seed", str(2**63)],
        ["prepare", "xml", "file", "--out", "dir"],
        ["recommend", "run", "x", "-k", "0"],
    ],
)
def test_wrong_arguments_exit_with_2_and_no_traceback(arguments: list[str], run_rearec: Any) -> None:
    result = run_rearec(*arguments)
    assert result.returncode == 2
    assert result.stdout == "" and result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere: no such folder; expected the RUN folder of a training"),
        (["recommend", "nowhere", "a"], "nowhere: no such folder; expected the RUN folder of a training"),
        (["recommend", "nowhere", "--input", "x"], "--input and --output belong together"),
        (["train", "nowhere", "--out", "run"], "nowhere: no such directory; expected a prepared dataset"),
        (["train", "nowhere", "--out", "run", "--resume", "--force"], "give one of them"),
        (["prepare", "json", "nowhere.json", "--out", "dir"], "nowhere.json"),
        (["info", "--device", "abacus"], "--device: got 'abacus', expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_user_errors_are_one_line_and_exit_with_2(
    arguments: list[str], message: str, run_rearec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_rearec(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(run_rearec: Any) -> None:
    result = run_rearec("evaluate", "nowhere", "--debug")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: nowhere")


def test_prepare_prints_statistics_and_floors_and_refuses_to_overwrite(
    source_file: Path, tmp_path: Path, run_rearec: Any
) -> None:
    out = tmp_path / "data"
    first = run_rearec("prepare", "json", source_file, "--out", out, "--split", "leave-one-out", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert result["statistics"]["users"] == 150 and result["statistics"]["items"] == 40
    assert result["popularity"]["rows"] == result["markov"]["rows"] == result["statistics"]["test_rows"]
    again = run_rearec("prepare", "json", source_file, "--out", out)
    assert again.returncode == 2 and "--force" in again.stderr
    forced = run_rearec("prepare", "json", source_file, "--out", out, "--force")
    assert forced.returncode == 0
    assert "markov" in forced.stdout and "train rows" in forced.stdout


def test_prepare_hands_every_option_on(tmp_path: Path, run_rearec: Any) -> None:
    lines = ["who;what;stars;when"]
    for user in range(6):
        lines += [f"u{user};i{place % 3};{3 + place % 3};{place}" for place in range(12)]
    lines.append("u0;i9;1;3")
    source = tmp_path / "reviews.csv"
    source.write_text("\n".join(lines) + "\n")
    titles = tmp_path / "titles.csv"
    titles.write_text("what,name\ni0,A\ni1,B\n")
    names = {"user": "who", "item": "what", "rating": "stars", "timestamp": "when"}
    columns = [word for name, column in names.items() for word in (f"--{name}-column", column)]
    filters = ["--min-rating", "2", "--user-core", "3", "--item-core", "3", "--duplicates", "keep"]
    rows = ["--min-target-rating", "4", "--min-train-history", "2", "--min-eval-history", "3", "--known-items"]
    split = ["--split", "timestamp", "--valid-from", "8", "--test-from", "10"]
    more = ["--separator", ";", "--titles", str(titles), "--title-column", "name", "--missing-titles", "keep"]
    result = run_rearec("prepare", "table", source, "--out", tmp_path / "d", *columns, *filters, *rows, *split, *more)
    assert result.returncode == 0, result.stderr
    options = json.loads((tmp_path / "d" / "dataset.json").read_text())["options"]
    expected = {
        **{"split": "timestamp", "valid_from": "8", "test_from": "10", "min_rating": 2.0, "duplicates": "keep"},
        **{"user_core": 3, "item_core": 3, "min_target_rating": 4.0, "min_train_history": 2, "min_eval_history": 3},
        **{"known_items": True, "titles": "titles.csv", "missing_titles": "keep"},
        **{"user_column": "who", "item_column": "what", "rating_column": "stars", "timestamp_column": "when"},
        **{"separator": ";"},
    }
    assert expected.items() <= options.items()


def test_prepare_compares_with_the_published_counts(tmp_path: Path, run_rearec: Any) -> None:
    source, items = tmp_path / "review.json", tmp_path / "business.json"
    days = [f"2020-01-{day:02} 00:00:00" for day in (1, 2, 3, 4, 5, 6, 9, 10)]
    reviews = [{"user_id": "u", "business_id": f"b{n % 6}", "stars": 5, "date": day} for n, day in enumerate(days)]
    source.write_text("".join(json.dumps(review) + "\n" for review in reviews))
    items.write_text("".join(json.dumps({"business_id": f"b{n}", "name": f"B {n}"}) + "\n" for n in range(6)))
    small = ("--core", "1", "--json")
    result = run_rearec("prepare", "yelp", source, items, "--out", tmp_path / "d", "--expect", *small)
    assert result.returncode == 2 and not (tmp_path / "d").exists()
    *_, users, items_line, rows, train, valid, test, error = result.stderr.splitlines()
    assert users == "users: expected 13,083, got 1 (-13,082)" and items_line.startswith("items: expected 10,697, got 6")
    assert [line.split(":")[0] for line in (rows, train, valid, test)] == [
        *("rows", "train rows", "valid rows", "test rows")
    ]
    assert error.startswith("error: 6 of 6 counts differ from the published ones of 'yelp'")
    result = run_rearec("prepare", "yelp", source, items, "--out", tmp_path / "d", *small)
    assert result.returncode == 0, result.stderr
    statistics = json.loads(result.stdout)["statistics"]
    assert [statistics[f"{split}_rows"] for split in ("train", "valid", "test")] == [1, 1, 1]
    options = json.loads((tmp_path / "d" / "dataset.json").read_text())["options"]
    assert (options["preset"], options["core"], options["split"]) == ("yelp", 1, "time-span")
    result = run_rearec("prepare", "amazon2023", items, "--out", tmp_path / "e", "--preset", "cds")
    assert result.returncode == 2 and "error: " in result.stderr


def test_choices_and_defaults_are_those_of_the_library() -> None:
    from rearec.cli import demo, train
    from rearec.cli import training_choices as choices
    from rearec.experiments.demo import EPOCHS, USERS
    from rearec.models.config import (
        BACKBONES,
        KL_FORMS,
        METHODS,
        NOISED_PREFIXES,
        STEP_WEIGHTS,
        TRAINING_TASKS,
        ReaRecConfig,
    )
    from rearec.training.module import PAIRINGS, PRECISIONS, SCHEDULES, TrainingOptions

    def values(choices: Any) -> list[str]:
        return [choice.value for choice in choices]

    assert values(choices.Backbone) == list(BACKBONES)
    assert values(choices.Method) == list(METHODS)
    assert values(choices.Form) == list(KL_FORMS) == list(STEP_WEIGHTS)
    assert values(choices.Pairing) == list(PAIRINGS)
    assert values(choices.Precision) == list(PRECISIONS)
    assert values(choices.NoisedPrefix) == list(NOISED_PREFIXES)
    assert values(choices.TrainingTask) == list(TRAINING_TASKS)
    assert values(choices.Schedule) == list(SCHEDULES)

    def defaults(function: Any) -> dict[str, Any]:
        names = function.__wrapped__.__code__.co_varnames[: function.__wrapped__.__code__.co_argcount]
        given = function.__wrapped__.__defaults__
        return {name: getattr(value, "value", value) for name, value in zip(names[-len(given) :], given, strict=True)}

    command = defaults(train.train)
    config, options = ReaRecConfig(1), TrainingOptions()
    assert {name: command[name] for name in train.MODEL_FIELDS} == {
        name: getattr(config, field) for name, field in train.MODEL_FIELDS.items()
    }
    assert {name: command[name] for name in train.TRAINING_FIELDS} == {
        name: getattr(options, field) for name, field in train.TRAINING_FIELDS.items()
    }
    # every setting of the library can be given on the command line, but for what the dataset decides
    assert {*train.MODEL_FIELDS.values(), "num_items", "feature_dim"} == set(ReaRecConfig.__dataclass_fields__)
    assert set(train.TRAINING_FIELDS.values()) == set(TrainingOptions.__dataclass_fields__)
    assert (defaults(demo.demo)["users"], defaults(demo.demo)["epochs"]) == (USERS, EPOCHS)


def test_train_evaluate_and_recommend_from_end_to_end(prepared: Path, tmp_path: Path, run_rearec: Any) -> None:
    run = tmp_path / "run"
    trained = run_rearec("train", prepared, "--out", run, "--method", "base", "--steps", "2", *SMALL, "--json")
    assert trained.returncode == 0, trained.stderr
    assert "--steps is ignored: base does not reason" in trained.stderr
    assert "epoch   1" in trained.stderr
    assert "deprecated" not in trained.stderr and "Warning" not in trained.stderr
    result = json.loads(trained.stdout)
    assert result["best_epoch"] == 1 and result["test"]["rows"] == 150 and result["steps"] == 0

    again = run_rearec("train", prepared, "--out", run, "--method", "base", *SMALL)
    assert again.returncode == 2 and "--force replaces it" in again.stderr

    evaluated = run_rearec("evaluate", run, "--json", "--device", "cpu")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)
    for name in ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr"):
        assert metrics[name] == pytest.approx(result["test"][name], rel=1e-12)
        assert metrics[f"{name}_se"] > 0
    assert metrics["rows"] == 150

    table = run_rearec(
        "evaluate", run, "--split", "valid", "--users-by", "length", "--items-by", "popularity", "--by-step"
    )
    assert table.returncode == 0, table.stderr
    for words in ("valid rows", "popularity", "markov", "By length of the history", "By interactions of the target"):
        assert words in table.stdout

    too_deep = run_rearec("evaluate", run, "--steps", "1")
    assert too_deep.returncode == 2
    assert too_deep.stderr == "error: --steps: got 1, expected 0..0: the model was trained for 0 steps\n"

    recommended = run_rearec("recommend", run, "item-001", "nobody knows", "item-010", "-k", "5", "--json")
    assert recommended.returncode == 0, recommended.stderr
    answer = json.loads(recommended.stdout)
    assert answer["unknown"] == ["nobody knows"] and answer["source"] == "model"
    assert len(set(answer["items"])) == 5 and all(item.startswith("item-") for item in answer["items"])


def test_recommend_says_when_it_answers_by_popularity(run_folder: Path, run_rearec: Any) -> None:
    result = run_rearec("recommend", run_folder, "new", "-k", "3")
    assert result.returncode == 0, result.stderr
    assert "skipped, not in the catalogue: new" in result.stderr
    assert "these are the most popular items" in result.stderr
    assert result.stdout.count("item-") == 3


def test_recommend_answers_a_file_line_by_line(run_folder: Path, tmp_path: Path, run_rearec: Any) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('["item-001", "?"]\n\n{"user": "Zoë", "history": ["item-002"]}\n{"history": []}\n', "utf-8")
    result = run_rearec(
        "recommend", run_folder, "--input", source, "--output", out, "-k", "4", "--exclude-seen", "--json"
    )
    assert result.returncode == 0, result.stderr
    summary = {"output": str(out), "histories": 3, "by_model": 2, "by_popularity": 1, "unknown_items": 1}
    assert json.loads(result.stdout) == summary
    answers = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [answer["source"] for answer in answers] == ["model", "model", "popularity"]
    assert answers[0]["unknown"] == ["?"] and "item-001" not in answers[0]["items"]
    assert answers[1]["user"] == "Zoë" and len(answers[1]["items"]) == len(answers[1]["scores"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]

    before = out.read_bytes()
    refused = run_rearec("recommend", run_folder, "--input", source, "--output", out)
    assert refused.returncode == 2 and "exists already; --force replaces it" in refused.stderr
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "row 2: expected a list of ids (strings)"),
        ('{"items": []}', "row 2: expected a list of ids (strings)"),
        ("item-001", "row 2: not json"),
        ('{"history": ["item-001"], "weight": NaN}', "row 2: holds NaN or infinity"),
        ('["\\ud800"]', "row 2: holds half of a surrogate pair"),
        ("[" * 100_000, "row 2: the json is nested too deeply"),
    ],
)
def test_a_wrong_line_of_histories_is_named(
    line: str, message: str, run_folder: Path, tmp_path: Path, run_rearec: Any
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('["item-001"]\n' + line + "\n")
    result = run_rearec("recommend", run_folder, "--input", source, "--output", tmp_path / "out.jsonl")
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and message in result.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_evaluate_finds_a_moved_dataset_with_data_and_refuses_another(
    run_folder: Path, prepared: Path, source_file: Path, tmp_path: Path, run_rearec: Any
) -> None:
    other = tmp_path / "other"
    histories = json.loads(source_file.read_text())
    (tmp_path / "source.json").write_text(json.dumps(dict(reversed(histories.items()))))
    assert run_rearec("prepare", "json", tmp_path / "source.json", "--out", other).returncode == 0
    refused = run_rearec("evaluate", run_folder, "--data", other)
    assert refused.returncode == 2 and "was trained on other data or on another split" in refused.stderr
    # the same items, another split
    again = tmp_path / "again"
    assert run_rearec("prepare", "json", source_file, "--out", again, "--min-eval-history", "9").returncode == 0
    refused = run_rearec("evaluate", run_folder, "--data", again)
    assert refused.returncode == 2 and "was trained on other data or on another split" in refused.stderr

    lost = tmp_path / "run"
    lost.mkdir()
    for path in run_folder.iterdir():
        if path.is_file():
            (lost / path.name).write_bytes(path.read_bytes())
    options = json.loads((lost / "options.json").read_text())
    options["dataset"]["path"] = str(tmp_path / "gone")
    (lost / "options.json").write_text(json.dumps(options))
    missing = run_rearec("evaluate", lost)
    assert missing.returncode == 2 and "say where it is with --data" in missing.stderr
    assert run_rearec("evaluate", lost, "--data", prepared).returncode == 0


def test_info_tells_versions_build_backends_threads_and_gpu(run_rearec: Any) -> None:
    result = run_rearec("info", "--json", "--threads", "1")
    assert result.returncode == 0, result.stderr
    info = json.loads(result.stdout)
    assert info["rearec"] == version("rearec")
    assert info["libraries"]["torch"] == version("torch")
    assert info["threads"] == 1
    assert "reference" in info["build"]["backends"]["cpu"]
    assert isinstance(info["build"]["cuda"], str)
    plain = run_rearec("info")
    assert plain.returncode == 0 and "backends" in plain.stdout


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).parent / "rearec"
    assert os.access(script, os.X_OK)
    result = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert result.stdout == f"rearec {version('rearec')}\n"


@pytest.mark.parametrize("arguments", [["info", "--json"], ["info"], ["--help"]])
def test_a_standard_output_that_is_full_is_one_line(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "rearec.cli", *arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert result.returncode == 2
    assert result.stderr == "error: standard output: cannot be written: No space left on device\n"


def test_a_backend_that_is_not_there_is_one_line(run_folder: Path, run_rearec: Any) -> None:
    result = run_rearec("recommend", run_folder, "item-001", "--device", "cpu", REAREC_BACKEND="abacus")
    assert result.returncode == 2
    assert result.stderr.startswith("error: REAREC_BACKEND: got 'abacus', expected one of ")
    assert result.stderr.count("\n") == 1


def test_outputs_that_cannot_be_written_are_refused_by_their_name(
    run_folder: Path, source_file: Path, prepared: Path, tmp_path: Path, run_rearec: Any
) -> None:
    requests = tmp_path / "in.jsonl"
    requests.write_text('["item-001"]\n')
    nested = requests / "x"
    for arguments, message in (
        (("prepare", "json", source_file, "--out", nested), f"{nested}: cannot be written: {requests} is a file"),
        (("train", prepared, "--out", nested, *SMALL), f"{nested}: cannot be written: {requests} is a file"),
        (("demo", "--out", nested, "--json"), f"{nested}: cannot be written: {requests} is a file"),
        (
            ("recommend", run_folder, "--input", requests, "--output", tmp_path / "no" / "o"),
            f"{tmp_path / 'no' / 'o'}: cannot be written: there is no folder {tmp_path / 'no'}",
        ),
        (
            ("recommend", run_folder, "--input", requests, "--output", requests, "--force"),
            f"{requests}: --output is the file of --input",
        ),
    ):
        result = run_rearec(*arguments)
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {message}"), result.stderr
    assert requests.read_text() == '["item-001"]\n'


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("options.json", lambda value: value["training"].update(lr="0.1"), "damaged: lr: got '0.1', expected"),
        ("options.json", lambda value: value["model"].update(dim="16"), "damaged: dim: got '16', expected"),
        ("options.json", lambda value: value.update(training=[]), "damaged: training is missing"),
    ],
)
def test_damaged_options_of_a_run_to_resume_are_named(
    name: str, damage: Any, message: str, run_folder: Path, prepared: Path, tmp_path: Path, run_rearec: Any
) -> None:
    value = json.loads((run_folder / name).read_text())
    damage(value)
    (tmp_path / name).write_text(json.dumps(value))
    result = run_rearec("train", prepared, "--out", tmp_path, "--resume")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / name}: {message}")
