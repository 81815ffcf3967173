from cifar_hapi.cli import main

main()
