from .auth import Tokens as Tokens
from .auth import require_protection as require_protection
from .routes import make_api as make_api
