{% set columns = ['stock_code', 'description', 'n_lines', 'last_invoice_date'] %}
with landed as (
    {{ landed_fields('items', 'online-retail', columns) }}
),

named as (
    select
        * exclude (stock_code, description, n_lines),
        upper(stock_code) as item_id,
        {{ tidied('description') }} as title,
        coalesce(try_cast(n_lines as bigint), 1) as n_lines
    from landed
),

-- Product names are in capitals, some in Title Case of three words or more; stock takers' notes are neither.
judged as (
    select
        named.*,
        length(regexp_replace(title, '[^A-Z]', '', 'g')) as n_capitals,
        length(regexp_replace(title, '[^a-z]', '', 'g')) as n_small_letters,
        not regexp_matches(title, '(^|[^A-Za-z''])[a-z]')
        and length(regexp_extract_all(title, '[A-Z][A-Za-z'']*')) >= 3 as is_title_case,
        upper(rtrim(title, ' ?.!')) in (
            select description from {{ ref('online_retail_junk_descriptions') }}
        ) as is_junk,
        case
            when exists (
                select 1
                from {{ ref('online_retail_non_products') }} as non_product
                where regexp_full_match(named.item_id, non_product.pattern)
            ) then true
            else false
        end as is_no_product
    from named
),

usable as (
    select
        *,
        coalesce(
            (n_capitals >= greatest(1, n_small_letters) or is_title_case) and not is_junk,
            false
        ) as is_usable
    from judged
),

summed as (
    select
        *,
        sum(n_lines) over (partition by arrival_hour, item_id, title, is_usable) as lines_of_title
    from usable
)

select
    arrival_hour,
    source,
    file,
    row_number,
    -- The most frequent usable description of a code in a batch describes it.
    cast(row_number() over (
        partition by arrival_hour, item_id
        order by is_usable, lines_of_title, last_invoice_date, title, file, row_number
    ) as bigint) as preference,
    item_id,
    'product' as kind,
    title,
    cast(null as varchar) as description,
    cast([] as varchar[]) as categories,
    cast(null as varchar) as creator_id,
    cast(null as double) as price,
    cast(null as timestamp) as published_at,
    cast(null as timestamp) as available_from,
    cast(null as timestamp) as available_until,
    cast(null as varchar) as attributes,
    raw,
    case
        when read_error is not null then read_error
        when item_id is null then 'missing_item'
        when is_no_product then 'not_a_product'
        when not is_usable then 'unusable_description'
    end as reason
from summed
