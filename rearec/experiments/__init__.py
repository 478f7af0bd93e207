"""The paper's tables and figures: which trainings each of them needs, and how its page is made of them."""

from __future__ import annotations

__all__ = ["ARTEFACTS", "DEMO_EPOCHS", "DEMO_USERS"]

# In the order in which they are trained when all are asked for: what others share comes first.
ARTEFACTS = (
    *("table1", "table2", "table3", "table4", "fig2", "fig4", "fig8", "fig9", "fig11", "fig7", "fig5", "fig6"),
    "search",
)
# Of the demonstration: users to generate, epochs of each training.
DEMO_USERS, DEMO_EPOCHS = 4000, 14
