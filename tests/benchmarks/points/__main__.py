from tests.benchmarks.points import main

if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
