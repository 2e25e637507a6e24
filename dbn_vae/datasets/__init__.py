"""Real and synthetic sequences, one file per data set; nothing is fetched at import."""

from dbn_vae.datasets.binarized_mnist import BinarizedMNIST as BinarizedMNIST
from dbn_vae.datasets.binarized_mnist import load_binarized_mnist as load_binarized_mnist
from dbn_vae.datasets.bouncing_ball import bouncing_ball as bouncing_ball
from dbn_vae.datasets.digits import load_digits as load_digits
from dbn_vae.datasets.earthquakes import load_earthquakes as load_earthquakes
from dbn_vae.datasets.files import locate as locate
from dbn_vae.datasets.freyfaces import load_freyfaces as load_freyfaces
from dbn_vae.datasets.geyser import Geyser as Geyser
from dbn_vae.datasets.geyser import load_geyser as load_geyser
from dbn_vae.datasets.goog import GoogDays as GoogDays
from dbn_vae.datasets.goog import load_goog as load_goog
from dbn_vae.datasets.honeybee import Dance as Dance
from dbn_vae.datasets.honeybee import load_honeybee as load_honeybee
from dbn_vae.datasets.jsb import load_jsb as load_jsb
from dbn_vae.datasets.mnist import load_mnist as load_mnist
from dbn_vae.datasets.mocap6 import Mocap6 as Mocap6
from dbn_vae.datasets.mocap6 import load_mocap6 as load_mocap6
from dbn_vae.datasets.nile import load_nile as load_nile
from dbn_vae.datasets.occupancy import Occupancy as Occupancy
from dbn_vae.datasets.occupancy import load_occupancy as load_occupancy
from dbn_vae.datasets.sp500 import load_sp500 as load_sp500
from dbn_vae.datasets.sprites import Sprites as Sprites
from dbn_vae.datasets.sprites import load_sprites as load_sprites
from dbn_vae.datasets.three_mode import three_mode as three_mode
