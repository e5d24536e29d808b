"""Contenders that need packages of the extra ``bench`` are not looked through for tests."""

collect_ignore = ["lightning_loop.py", "skorch_loop.py"]
