/* The size of the data area is a variable here, to try any. */
extern unsigned int fuzz_area;
#define DATA_AREA_MAX	fuzz_area
