from .auth import require_protection as require_protection
from .routes import make_api as make_api
