"""Ready use cases: each folder holds data, reward and settings of one task.

A recipe is a subpackage with `generate(seed) -> {split: rows}` in `data.py`, rewards in `reward.py`
and settings in `config.toml`. Found by looking at the folders, so there is no list to keep.
"""
