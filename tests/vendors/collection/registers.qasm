OPENQASM 2.0;
include "qelib1.inc";
qreg left[2]; qreg right[2]; creg hi[2]; creg lo[1]; creg unused[2]; creg mid[1];
x left[0]; ry(1.0472) right[1]; cx right[1],left[1]; rzz(0.7) left[0],right[0]; u2(0.1,0.2) right[0]; 
measure left[0] -> hi[1]; measure left[1] -> mid[0]; measure right[1] -> lo[0]; measure right[0] -> hi[0];
