"""`python -m famulus` is the command `famulus`."""

from famulus.scaffold.command_line import main

main()
