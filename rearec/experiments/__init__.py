"""The paper's tables and figures: which trainings each of them needs, and how its page is made of them."""
