"""Quality gates: Great Expectations suites as code. No I/O but their reports."""

import logging

# Great Expectations prints hundreds of INFO lines, the first ones while it is imported.
logging.getLogger("great_expectations").setLevel(logging.WARNING)
