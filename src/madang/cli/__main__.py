"""`python -m madang.cli`: the command line where no script was installed."""

from madang.cli import main

main()
