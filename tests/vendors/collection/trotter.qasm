OPENQASM 2.0;
include "qelib1.inc";
qreg q[4]; creg c[4];
x q[0]; x q[2];
rxx(0.6) q[0],q[1]; rzz(0.4) q[0],q[1]; rxx(0.6) q[2],q[3]; rzz(0.4) q[2],q[3];
rxx(0.6) q[1],q[2]; rzz(0.4) q[1],q[2];
crz(0.9) q[0],q[3]; cu3(0.3,0.2,0.1) q[1],q[3]; cswap q[0],q[1],q[2];
measure q -> c;
