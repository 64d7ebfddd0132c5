from kvperf.cli import main

main()
