import model  # noqa: F401  before any test imports mindspore: without the oneDNN setting it is 40 to 80 times slower
