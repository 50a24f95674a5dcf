from fakes.transports import transport  # noqa: F401 - a fixture
from served_models import real_similarity, real_triton  # noqa: F401 - fixtures
from vision_processes import real_vision  # noqa: F401 - a fixture
