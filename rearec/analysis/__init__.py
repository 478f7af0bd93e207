"""Analyses of trained models: one file per question, each with what computes the numbers and what puts them on a page.

The function that computes takes models in evaluation mode and a prepared dataset and returns plain numbers;
``page(into, results, name=...)`` adds tables and figures to a `rearec.report.page.Page`. Rows are those of
``dataset.rows(split)``.
"""
