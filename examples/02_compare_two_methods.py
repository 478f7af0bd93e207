# %% [markdown]
# # Does reasoning help on these data?
# Two methods, two seeds each, the same data and epochs; the difference on the same test rows, with an interval.

# %%
import rearec
from rearec.data import sample_events

data = rearec.Dataset.from_frame(sample_events(), user="user", item="item", time="time", titles="title")
runs = {}
for method in ("base", "prl"):
    for seed in (0, 1):
        model = rearec.fit(data, method=method, seed=seed, epochs=2, out=f"{method}-{seed}", force=True, progress=False)
        runs[method, seed] = model
        print(f"{method} seed {seed}: validation NDCG@20 {model.result['valid']['ndcg@20']:.4f}")

# %% [markdown]
# Rows are paired: what counts is the difference on each row, not the two averages. An interval that contains 0 means
# that these rows cannot tell the two apart.

# %%
for seed in (0, 1):
    print(rearec.compare([runs["base", seed].run, runs["prl", seed].run], data=data))
