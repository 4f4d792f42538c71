from .page import write_card as write_card
from .tables import read_catalogue as read_catalogue
from .tables import read_suspicious as read_suspicious
from .thumbnails import read_photograph as read_photograph
