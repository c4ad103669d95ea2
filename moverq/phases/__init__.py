"""The stretches of a move, a coroutine each; what they share of one orchestrator's turn is in `tenure`."""
