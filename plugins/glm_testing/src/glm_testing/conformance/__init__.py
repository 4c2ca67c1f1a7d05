"""The conformance kit: does a plugin do what `docs/plugins/promises.md` says?

From the command line, without any test file::

    pytest --glm-plugin my_backend

or as part of the plugin's own tests::

    from glm_testing.conformance import ConformanceTests


    class TestConformance(ConformanceTests):
        plugin = "glm_backend_mine.plugin"

Modules: ``_promises`` says what a check is and lists them all, ``_outcomes`` how one ends; ``subject`` is
the plugin under test with all that it needs, ``_finding`` and ``_imports`` what is known of it before it is
imported here. The checks are in ``_plugin_checks``, ``_lifecycle_checks``, ``_answer_checks``,
``_cancel_checks``, ``_adapter_checks``, ``_checkpoint_checks``, ``_frontend_checks`` and
``_training_checks``; ``_test_class`` is the class above, and `glm_testing.pytest_plugin` the command line.
"""

from ._outcomes import BrokenPromiseError, NotApplicableError
from ._promises import Check, checks_for, list_checks
from ._test_class import ConformanceTests
from .subject import Subject

__all__ = [
    "BrokenPromiseError",
    "Check",
    "ConformanceTests",
    "NotApplicableError",
    "Subject",
    "list_checks",
    "checks_for",
]
