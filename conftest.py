# the scripts test.py and test_prune.py are not tests, whatever their names
collect_ignore = ["test.py", "test_prune.py"]
