from .page import write_card as write_card
from .thumbnails import read_photograph as read_photograph
