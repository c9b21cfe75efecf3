echo "256 256 32 0 0" > $V/lowmem_reserve_ratio; sc lowmem_reserve_ratio-256_256_32_0_0
echo "40" > $V/percpu_pagelist_high_fraction; sc percpu_pagelist_high_fraction-40
echo "0" > $V/percpu_pagelist_high_fraction; sc percpu_pagelist_high_fraction-0
echo "16 16 8 0 0" > $V/lowmem_reserve_ratio; sc lowmem_reserve_ratio-16_16_8_0_0
echo "10" > $V/watermark_scale_factor; sc watermark_scale_factor-10
echo "9000" > $V/min_free_kbytes; sc min_free_kbytes-9000
