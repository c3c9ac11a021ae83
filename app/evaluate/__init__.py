"""Measuring memories: how well a model reads and remembers through one, at equal cells or equal bytes.

Each file is one idea: texts (`texts`), engines on one copy of the weights (`bench`), a run that can be interrupted
(`runner`, `results`), the questions (`ppl`, `agree`, `recall`, `summary`), and what is said about the numbers (`stats`,
`tables`, `plots`). What a memory under test is stands in `app/memory_spec.py`. docs/evaluation.md says what is held
constant.
"""
