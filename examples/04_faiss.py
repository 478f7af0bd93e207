# %% [markdown]
# # Users and items as vectors in an index
# The score of an item is the dot product of two vectors, so any index for inner products can serve the model. What the
# item graph adds to the scores is in no vector: such a model is trained without it, `prior="none"`.

# %%
import importlib.util

import numpy as np

import rearec
from rearec.data import sample_events

data = rearec.Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")
model = rearec.fit(data, prior="none", epochs=2, progress=False)
histories = [model.known_history(user) for user in data.user_ids[:50]]
users, items = model.encode(histories), model.item_vectors
print(f"users {users.shape}, items {items.shape}, {items.dtype}")

# %% [markdown]
# `recommend` searches the whole catalogue exactly. An exact index finds the same; an approximate one finds most of it.

# %%
exact = model.recommend(histories=histories, k=10, exclude_seen=False)
if importlib.util.find_spec("faiss") is None:
    print("no faiss here (pip install faiss-cpu): the same search with numpy")
    found = np.argsort(-(users @ items.T), axis=1)[:, :10]
else:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    _, found = index.search(users, 10)
same = [len({data.item_ids[n] for n in row} & set(answer.items)) / 10 for row, answer in zip(found, exact, strict=True)]
print(f"{np.mean(same):.1%} of the items are those of recommend")
