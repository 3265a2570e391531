OPENQASM 3.0;
include "stdgates.inc";
// Phases of 5/8 are read by an inverse Fourier transform.
qubit[3] q; bit[3] c;
h q;
p(2*pi*5/2) q[2];
p(2*pi*5/4) q[1];
p(2*pi*5/8) q[0];
swap q[0], q[2];
h q[0];
cp(-pi/2) q[0], q[1];
h q[1];
cp(-pi/4) q[0], q[2];
cp(-pi/2) q[1], q[2];
h q[2];
c = measure q;
