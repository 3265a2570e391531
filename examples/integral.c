/* The integral of 4 / (1 + x^2) from 0 to 1, which is pi; the processes share the intervals. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    int rank, size;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    long intervals = argc > 1 ? atol(argv[1]) : 1000000;
    double part = 0.0, total = 0.0;
    for (long i = rank; i < intervals; i += size) {
        double x = (i + 0.5) / intervals;
        part += 4.0 / (1.0 + x * x) / intervals;
    }
    MPI_Allreduce(&part, &total, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    if (rank == 0) printf("%.12f by %d processes\n", total, size);
    MPI_Finalize();
    return 0;
}
