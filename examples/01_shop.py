# %% [markdown]
# # From a table of events to recommendations
# A table with who, what and when; a model; what to offer next, with titles. Ten lines, and then a few questions.

# %%
import rearec
from rearec.data import sample_events

events = sample_events()  # a DataFrame of polars; pandas and pyarrow do as well
data = rearec.Dataset.from_frame(events, user="user", item="item", time="time", titles="title")
model = rearec.fit(data, epochs=4, progress=False)  # to be quick; without it, until validation stops rising
offers = model.recommend(users="all", k=5, frame=True)
print(offers.head(5))

# %% [markdown]
# ## Is it any good?
# Simple rules have to be beaten: what is popular, what followed the last item, what the users of the same items have,
# what followed the last few items.

# %%
test = model.evaluate()
floors = ("popularity", "markov", "itemknn", "rules")
for name, metrics in (("model", test), *((floor, test[floor]) for floor in floors)):
    print(f"{name:<11} NDCG@20 {metrics['ndcg@20']:.4f}   Recall@20 {metrics['recall@20']:.4f}")

# %% [markdown]
# ## One customer
# The model reads a history, so a new customer is no special case. Leave out what they have; offer what is in stock.

# %%
customer = data.user_ids[0]
history = model.known_history(customer)
in_stock = data.item_ids[::2]
(answer,) = model.recommend(histories=[history], k=3, exclude_seen=True, allow=in_stock)
for item, title, score in zip(answer.items, answer.titles or answer.items, answer.scores, strict=True):
    print(f"{item}  {title}  {score:.2f}")

# %% [markdown]
# ## Why?
# The ranking after each reasoning step, and what each item of the history adds to the first offer.

# %%
print(model.explain(history, k=3))

# %% [markdown]
# ## What goes with it?

# %%
print(model.similar(history[-1:], k=3)[0])

# %% [markdown]
# ## Keep it

# %%
model.save("shop-model", force=True)
assert rearec.load("shop-model", data).recommend(histories=[history]) == model.recommend(histories=[history])
