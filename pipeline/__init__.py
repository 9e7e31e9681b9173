"""How the stages are put together into runs: command line, plan, executors, commit, training."""
