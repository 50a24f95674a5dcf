"""The `tradeserve` command: ask models, search past states, draw and read charts, look at a strategy.

One module per command, each with `register(commands)`, which adds its parser to argparse's
subparsers and sets `run`: a function (or coroutine function) from the parsed arguments to the exit
status. A command that gets no answer raises the SDK's errors; `command_line` prints them and exits with 1.
"""
