"""For plugin authors: null plugins to start from, hosts for unit tests, and the conformance kit.

**Null plugins**, the smallest complete ones: `glm_testing.null_backend` (a runtime and a
backend), `glm_testing.null_frontend`, `glm_testing.null_trainer`. Copy one to begin with.

**For unit tests**: `make_host` and `make_plugin` make a plugin host of modules without installing
anything; `glm_testing.scripted_model` is a model that does what its question says, for tests of
frontends.

**The conformance kit** (``pip install glm-core[testing]``) checks what a plugin does against what
``docs/plugins/promises.md`` says, for each hook that it answers; without any test file::

    pytest --glm-plugin NAME_OR_MODULE
           [--glm-model MODEL] [--glm-adapter NAME=DIR] [--glm-device DEVICE]
           [--glm-run OPTION=VALUE] [--glm-driver MODULE:CLASS]
           [--glm-train OPTION=VALUE] [--glm-predict OPTION=VALUE] [--glm-patience SECONDS]

or as a part of the plugin's own tests, which is what continuous integration runs::

    from glm_testing.conformance import ConformanceTests


    class TestConformance(ConformanceTests):
        plugin = "glm_backend_mine.plugin"

A test class may also set ``model``, ``adapters``, ``device``, ``run_options``, ``driver`` (a class
derived from `glm_testing.driver.FrontendDriver`), ``train_options``, ``predict_options`` and
``patience``. Nothing here but `glm_testing.conformance` and `glm_testing.pytest_plugin`
needs pytest.
"""

from .hosts import make_host, make_plugin

__all__ = ["make_host", "make_plugin"]
