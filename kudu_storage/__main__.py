"""`python -m kudu_storage` is the kudu-storage command."""
from kudu_storage.cli.main import main

main()
