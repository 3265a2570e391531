OPENQASM 2.0;
include "qelib1.inc";
qreg q[5]; qreg anc[1]; creg c[5];
x anc[0]; h anc[0]; h q;
cx q[0],anc[0]; cx q[3],anc[0]; cx q[4],anc[0];
h q; measure q -> c;
