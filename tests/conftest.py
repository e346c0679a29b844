"""What holds for every test, in each of pytest-xdist's processes and in the one that gathers what they say."""

from tests.integration.canary import (  # noqa: F401  # hooks: pytest finds them here
    pytest_runtest_logreport,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
